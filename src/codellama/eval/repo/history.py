"""What the commits of a repository added, read with git itself."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ConfigError

_MAX_FILE_BYTES = 400_000
_COMMIT = re.compile(r"^\x01([0-9a-f]{40,64})\n", re.MULTILINE)  # lines of files have a sign first
_HUNK = re.compile(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, kw_only=True)
class Added:
    """A file as a commit left it, and the runs of lines the commit added: [first, end), from 0."""

    commit: str
    path: str
    text: str
    runs: tuple[tuple[int, int], ...]


class Repository:
    """A git work tree.

    Raises:
        ConfigError: there is none at `path`, or git is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.root = Path(self._git("rev-parse", "--show-toplevel").strip())
        except ConfigError as error:
            raise ConfigError(
                f"{path} is no git repository: {error}", hint="name a folder with a history"
            ) from error

    @property
    def head(self) -> str:
        return self._git("rev-parse", "HEAD").strip()

    def added(self, suffixes: Sequence[str], n_commits: int) -> Iterator[Added]:
        """What the latest commits added to files of these suffixes, the latest first.

        Merges are left out, and so are files larger than 400 kB and those that are not UTF-8.
        """
        log = self._git(
            "log", "--no-merges", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
            "--diff-filter=AM", "--unified=0", "-p", "--format=%x01%H", "-n", str(n_commits), "--",
            *(f"*{suffix}" for suffix in suffixes),
        )  # fmt: skip
        parts = _COMMIT.split(log)
        for commit, patch in zip(parts[1::2], parts[2::2], strict=True):
            for path, runs in _runs(patch):
                text = self.file(commit, path)
                if text is not None:
                    yield Added(commit=commit, path=path, text=text, runs=tuple(runs))

    def file(self, commit: str, path: str) -> str | None:
        """A file as a commit has it; None where it is too large or no text."""
        data = self._bytes("cat-file", "blob", f"{commit}:{path}")
        if len(data) > _MAX_FILE_BYTES:
            return None
        try:
            return data.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            return None

    def tree(self, commit: str) -> dict[str, bytes]:
        """Every file of a commit that is not too large, by path."""
        listed = self._git("ls-tree", "-r", "-l", "-z", commit)
        found = {}
        for entry in filter(None, listed.split("\0")):
            facts, _, path = entry.partition("\t")
            mode, kind, name, size = facts.split()
            if kind == "blob" and mode != "120000" and int(size) <= _MAX_FILE_BYTES:
                found[path] = self._bytes("cat-file", "blob", name)
        return found

    def names(self, commit: str, suffix: str) -> list[str]:
        """Paths of a commit that end in `suffix`."""
        listed = self._git("ls-tree", "-r", "-z", "--name-only", commit)
        return [path for path in listed.split("\0") if path.endswith(suffix)]

    def _git(self, *arguments: str) -> str:
        return self._bytes(*arguments).decode("utf-8", errors="replace")

    def _bytes(self, *arguments: str) -> bytes:
        command = ["git", "-c", "core.quotePath=false", "-C", str(self.path), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise ConfigError(
                "git is not installed", hint="install it; the history is read with it"
            ) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise ConfigError(f"git {arguments[0]}: {said[-1]}")
        return done.stdout


def _runs(patch: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    path, runs = "", list[tuple[int, int]]()
    is_header = True  # after it, a line that begins with +++ is an added one
    for line in patch.split("\n"):
        if line.startswith("diff --git "):
            if path and runs:
                yield path, runs
            path, runs, is_header = "", [], True
        elif is_header and line.startswith("+++ b/"):
            path = line.removeprefix("+++ b/").rstrip("\t")
        else:
            hunk = _HUNK.match(line)
            if hunk is not None:
                is_header = False
                first, n = int(hunk[1]) - 1, int(hunk[2] or 1)
                if n:
                    runs.append((first, first + n))
    if path and runs:
        yield path, runs
