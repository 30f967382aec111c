"""What a model is shown of the text around a hole, and of other files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from codellama.engine.prompts import Order
from codellama.eval.repo.history import Repository
from codellama.eval.repo.holes import Hole
from codellama.text.tokenizer import Tokenizer
from codellama.text.trim import room_for_prompt, trim

_NEAR_LINES = 20
_WINDOW, _N_WINDOWS, _MOST_FILES = 30, 3, 40


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A prompt: with `suffix` None the text is continued, and cut to as many lines as the hole."""

    prefix: str
    suffix: str | None
    order: Order = "psm"


Strategy = Callable[[Hole, Repository], Shown]


def file_psm(hole: Hole, repository: Repository) -> Shown:
    """The whole file, as far as it fits."""
    return Shown(prefix=hole.prefix, suffix=hole.suffix)


def file_spm(hole: Hole, repository: Repository) -> Shown:
    """The same, with the suffix first."""
    return Shown(prefix=hole.prefix, suffix=hole.suffix, order="spm")


def near(hole: Hole, repository: Repository) -> Shown:
    """Twenty lines on either side."""
    before = hole.prefix.splitlines(keepends=True)[-_NEAR_LINES:]
    after = hole.suffix.splitlines(keepends=True)[:_NEAR_LINES]
    return Shown(prefix="".join(before), suffix="".join(after))


def left(hole: Hole, repository: Repository) -> Shown:
    """What comes before the hole, alone."""
    return Shown(prefix=hole.prefix, suffix=None)


def repo(hole: Hole, repository: Repository) -> Shown:
    """The file, and before it the parts of other files that share most names with the hole's
    surroundings, each under a comment with its path."""
    mark = "#" if hole.path.endswith(".py") else "//"
    parts = [
        f"{mark} file: {path}\n{text.rstrip()}\n\n" for path, text in _related(hole, repository)
    ]
    head = "".join(parts) + (f"{mark} file: {hole.path}\n" if parts else "")
    before = hole.prefix.splitlines(keepends=True)[-2 * _NEAR_LINES :]
    after = hole.suffix.splitlines(keepends=True)[:_NEAR_LINES]
    return Shown(prefix=head + "".join(before), suffix="".join(after))


STRATEGIES: dict[str, Strategy] = {
    "file": file_psm,
    "file-spm": file_spm,
    "near": near,
    "left": left,
    "repo": repo,
}


def fitted(shown: Shown, tokenizer: Tokenizer, context: int, max_tokens: int) -> Shown:
    """The prompt without what is too far from the hole to fit."""
    room = room_for_prompt(context, max_tokens)
    hole = (shown.prefix, shown.suffix or "")
    kept = trim(hole, tokenizer, room, allow_control=False, may_drop=True)
    suffix = None if shown.suffix is None else kept.suffix
    return Shown(prefix=kept.prefix, suffix=suffix, order=shown.order)


def _related(hole: Hole, repository: Repository) -> list[tuple[str, str]]:
    """Windows of other files of the commit, the most alike last, so that it stands nearest."""
    around = hole.prefix[-1500:] + hole.suffix[:500]
    wanted = _names(around)
    suffix = hole.path[hole.path.rfind(".") :]
    scored: list[tuple[float, str, str]] = []
    folder = hole.path.rpartition("/")[0]
    paths = [path for path in repository.names(hole.commit, suffix) if path != hole.path]
    paths.sort(key=lambda path: (path.rpartition("/")[0] != folder, path))
    for path in paths[:_MOST_FILES]:
        lines = (repository.file(hole.commit, path) or "").splitlines(keepends=True)
        for at in range(0, len(lines), _WINDOW):
            text = "".join(lines[at : at + _WINDOW])
            names = _names(text)
            if names:
                scored.append((len(names & wanted) / len(names | wanted), path, text))
    scored.sort(key=lambda one: (one[0], one[1]))
    return [(path, text) for score, path, text in scored[-_N_WINDOWS:] if score > 0]


def _names(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w{2,}", text))
