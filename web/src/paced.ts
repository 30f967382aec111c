/** Drawing that is asked for more often than there is time for. */

const FRAME_MS = 32;
const PAUSE = 4; // times what the last drawing took, so that the page answers to keys in between

export class Paced {
  #timer: ReturnType<typeof setTimeout> | null = null;
  #tookMs: number | null = null;

  constructor(readonly draw: () => void) {}

  /** Draws soon: the first time at once, later after a pause that grows with what drawing takes. */
  ask(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const began = performance.now();
      this.draw();
      this.#tookMs = performance.now() - began;
    }, this.#tookMs === null ? 0 : Math.max(FRAME_MS, PAUSE * this.#tookMs));
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
