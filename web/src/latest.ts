/** Work of which only the last asked for matters: waits a little, and ends what it replaces. */

export class Latest {
  #timer: ReturnType<typeof setTimeout> | null = null;
  #controller: AbortController | null = null;

  /** How often work was ended before it was done. */
  cancelled = 0;

  get isBusy(): boolean {
    return this.#timer !== null || this.#controller !== null;
  }

  /** Runs `work` after `delayMs` without another call; its signal says when it is not wanted. */
  run(delayMs: number, work: (signal: AbortSignal) => Promise<void>): void {
    this.stop();
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const controller = new AbortController();
      this.#controller = controller;
      void work(controller.signal).finally(() => {
        if (this.#controller === controller) this.#controller = null;
      });
    }, delayMs);
  }

  /** Ends what waits or runs. */
  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#controller === null) return;
    this.cancelled += 1;
    this.#controller.abort();
    this.#controller = null;
  }
}
