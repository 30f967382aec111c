"""How far a long job is: a bar redrawn in place on a terminal, a line for each ten per cent in a
file."""

from __future__ import annotations

from codellama.cli.terminal import Console

_WIDTH = 24


class Progress:
    """One job at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = -1
        self._live = console.err.isatty()

    def show(self, done: int, total: int, whole: str) -> None:
        """`whole` says what the total is, such as `56 tensors`."""
        percent = 100 * done // max(1, total)
        step = percent if self._live else percent // 10 * 10
        if self._console.quiet or step <= self._shown:
            return
        self._shown = step
        if self._live:
            bar = ("#" * (_WIDTH * percent // 100)).ljust(_WIDTH, ".")
            self._console.err.write(f"\rcodellama: [{bar}] {step:3d} % of {whole}")
            self._console.err.flush()
        else:
            self._console.say(f"{step} % of {whole}")

    def end(self) -> None:
        """Leaves the line; the next job begins anew."""
        if self._live and self._shown >= 0:
            self._console.err.write("\n")
            self._console.err.flush()
        self._shown = -1
