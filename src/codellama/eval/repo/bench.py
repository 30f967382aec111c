"""Each model, format and context on every hole, one at a time, so that latency is a user's."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from codellama.checkpoint.hub import resolve
from codellama.checkpoint.quantize import quantize
from codellama.engine.llm import LLM
from codellama.engine.params import SamplingParams
from codellama.errors import CodeLlamaError
from codellama.eval.metrics import edit_similarity, exact_match
from codellama.eval.repo.context import STRATEGIES, Shown, fitted
from codellama.eval.repo.history import Repository
from codellama.eval.repo.holes import KINDS, Hole, HoleKind, parses

AS_IT_IS = "as it is"
_MAX_TOKENS: dict[HoleKind, int] = {"line": 64, "lines": 192, "body": 384}
Progress = Callable[[int, int], None]


class Tests(Protocol):
    """Runs a commit's own tests on its files, of which `path` is in question; whether they pass."""

    def __call__(self, files: dict[str, bytes], path: str) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One model's reply for one hole. `passed` is None where the commit's own tests do not."""

    hole: Hole
    reply: str
    exact: bool
    similarity: float
    parses: bool | None
    passed: bool | None
    total_ms: float
    first_ms: float
    n_tokens: int
    prompt_tokens: int
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is compared: a model, its number format, and a context strategy."""

    model: str
    format: str
    context: str


def run(
    repository: Repository,
    holes: Sequence[Hole],
    *,
    models: Sequence[str],
    formats: Sequence[str],
    contexts: Sequence[str],
    tests: Tests | None = None,
    n_threads: int | None = None,
    max_seq_len: int | None = None,
    engine: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Iterator[tuple[Choice, list[Tried]]]:
    """What each choice gave, as soon as it is known. Models are loaded one after another.

    `engine` has further keywords of `LLM.load`: what computes, and in which numbers.

    Raises:
        CodeLlamaError: a model cannot be loaded or written in a format.
    """
    total = len(models) * len(formats) * len(contexts) * len(holes)
    done = 0
    judge = _Judge(repository, tests)
    shown: dict[tuple[str, str], Shown] = {}  # gathering other files' text takes a while
    for model in models:
        for format in formats:
            with ExitStack() as stack:
                path = _in_format(model, format, stack, say)
                # What one context left in the cache would make the next one look quick.
                llm = stack.enter_context(
                    LLM.load(path, n_threads=n_threads, max_seq_len=max_seq_len,
                             max_num_seqs=1, share_prefixes=False, **engine)
                )  # fmt: skip
                _warm_up(llm)
                for context in contexts:
                    tried = []
                    for hole in holes:
                        if (hole.id, context) not in shown:
                            shown[hole.id, context] = STRATEGIES[context](hole, repository)
                        tried.append(_try(llm, hole, shown[hole.id, context], judge))
                        done += 1
                        if progress is not None:
                            progress(done, total)
                    yield Choice(model=model, format=format, context=context), tried


def entry(choice: Choice, tried: Sequence[Tried]) -> dict[str, Any]:
    """One row of the table, as plain numbers; None where nothing was measured."""
    by_kind = {
        kind: [one for one in tried if one.hole.kind == kind and one.error is None]
        for kind in KINDS
    }
    served = [one for one in tried if one.error is None]
    times = sorted(one.total_ms for one in served)
    return {
        "model": choice.model,
        "format": choice.format,
        "context": choice.context,
        "holes": len(tried),
        "no_reply": len(tried) - len(served),
        **{f"exact_{kind}": _share([one.exact for one in by_kind[kind]]) for kind in KINDS},
        "similarity": statistics.fmean([one.similarity for one in served]) if served else None,
        "parses": _share([one.parses for one in served]),
        "passed": _share([one.passed for one in served]),
        "median_ms": statistics.median(times) if times else None,
        "p90_ms": times[min(len(times) - 1, round(0.9 * len(times)))] if times else None,
        "first_ms": statistics.median(one.first_ms for one in served) if served else None,
        "prompt_tokens": statistics.fmean(one.prompt_tokens for one in served) if served else None,
    }


def _share(values: Sequence[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class _Judge:
    def __init__(self, repository: Repository, tests: Tests | None) -> None:
        self._repository = repository
        self._tests = tests
        self._trees: dict[str, dict[str, bytes] | None] = {}  # None: its own tests do not pass

    def passed(self, hole: Hole, reply: str) -> bool | None:
        if self._tests is None:
            return None
        if not hole.path.endswith(".py"):
            return None
        if hole.commit not in self._trees:
            tree = self._repository.tree(hole.commit)
            self._trees[hole.commit] = tree if self._tests(tree, hole.path) else None
        files = self._trees[hole.commit]
        if files is None:
            return None
        text = hole.prefix + reply + hole.suffix
        return self._tests({**files, hole.path: text.encode()}, hole.path)


def _in_format(model: str, format: str, stack: ExitStack, say: Callable[[str], None]) -> str | Path:
    if format == AS_IT_IS:
        return model
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="codellama-bench-repo-"))
    say(f"writing {model} as {format}")
    path = Path(folder) / "model.gguf"
    quantize(resolve(model), path, format)
    return path


def _warm_up(llm: LLM) -> None:
    llm.complete("def warm_up():\n", SamplingParams(temperature=0, max_tokens=4))


def _try(llm: LLM, hole: Hole, around: Shown, judge: _Judge) -> Tried:
    max_tokens = min(_MAX_TOKENS[hole.kind], llm.max_seq_len // 2)
    shown = fitted(around, llm.tokenizer, llm.max_seq_len, max_tokens)
    params = SamplingParams(
        temperature=0, max_tokens=max_tokens, stop=("\n",) if hole.kind == "line" else ()
    )
    began = time.perf_counter()
    try:
        reply = _ask(llm, shown, params)
    except CodeLlamaError as error:
        return Tried(hole=hole, reply="", exact=False, similarity=0.0, parses=None, passed=None,
                     total_ms=0.0, first_ms=0.0, n_tokens=0, prompt_tokens=0, error=str(error),
        )  # fmt: skip
    total_ms = 1000 * (time.perf_counter() - began)
    text = _as_lines(reply.text, hole, is_cut=shown.suffix is None)
    return Tried(
        hole=hole,
        reply=text,
        exact=bool(exact_match(text, hole.middle)),
        similarity=edit_similarity(text, hole.middle),
        parses=parses(hole.path, hole.prefix + text + hole.suffix),
        passed=judge.passed(hole, text),
        total_ms=total_ms,
        first_ms=1000 * (reply.timings.queue_s + reply.timings.prefill_s),
        n_tokens=len(reply.token_ids),
        prompt_tokens=reply.prompt_tokens,
    )


def _ask(llm: LLM, shown: Shown, params: SamplingParams) -> Any:
    if shown.suffix is None:
        return llm.complete(shown.prefix, params)
    return llm.infill(prefix=shown.prefix, suffix=shown.suffix, params=params, order=shown.order)


def _as_lines(reply: str, hole: Hole, *, is_cut: bool) -> str:
    """The reply as whole lines, as the hole is; one that nothing told where to end is cut there."""
    if is_cut:
        reply = "".join(reply.splitlines(keepends=True)[: hole.middle.count("\n") or 1])
    ends_line = hole.middle.endswith("\n")
    return reply + "\n" if ends_line and not reply.endswith("\n") else reply
