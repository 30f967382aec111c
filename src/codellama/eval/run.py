"""One run: a suite's problems through a source, judged, and everything that says what it was."""

from __future__ import annotations

import datetime
import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from codellama.errors import ConfigError
from codellama.eval.data import Data
from codellama.eval.judge import Tools, judge
from codellama.eval.samples import SampleFile
from codellama.eval.sources import Request, Source
from codellama.eval.suite import Judged, Problem, Reply, Sampling, Suite, Summary

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How replies are drawn and to which problems: each `every`-th, of these the first `limit`."""

    sampling: Sampling
    limit: int | None = None
    every: int = 1


def stem(suite: Suite, plan: Plan) -> str:
    """The name of a run's files: what tells it apart from others of the same model."""
    words = [suite.name, suite.variant]
    if plan.sampling.n > 1 or plan.sampling.temperature:
        words.append(f"n{plan.sampling.n}-t{plan.sampling.temperature:g}")
    return ".".join(word for word in words if word)


def generate(
    suite: Suite,
    source: Source,
    data: Data,
    plan: Plan,
    folder: Path,
    *,
    restart: bool = False,
    progress: Progress | None = None,
) -> list[tuple[Problem, int, Reply]]:
    """Draws the samples that are not in the folder yet, and returns all, by problem and number.

    Raises:
        ConfigError: the data has no problem, or the folder holds samples of other settings.
        CodeLlamaError: the source gives no replies.
    """
    problems = list(islice(suite.problems(data.rows()), 0, None, plan.every))[: plan.limit]
    if not problems:
        raise ConfigError(f"{suite.title}: {data.origin} holds no problem of this suite")
    if len({problem.id for problem in problems}) != len(problems):
        raise ConfigError(f"{suite.title}: {data.origin} names two problems the same")
    n = plan.sampling.n
    keys = [(problem, sample) for problem in problems for sample in range(n)]
    settings = {
        "suite": suite.name,
        "variant": suite.variant,
        "model": source.facts(),
        "data_sha256": data.sha256,
        **{name: value for name, value in asdict(plan.sampling).items() if name != "n"},
    }
    with SampleFile(folder / stem(suite, plan), settings, restart=restart) as file:
        missing = [key for key in keys if (key[0].id, key[1]) not in file.found]
        done = len(keys) - len(missing)
        if progress is not None:
            progress("samples", done, len(keys))
        for request, reply in source.replies(_requests(missing, plan.sampling)):
            file.add(request.problem, request.sample, request.seed, reply)
            done += 1
            if progress is not None:
                progress("samples", done, len(keys))
        return [(problem, i, file.found[problem.id, i]) for problem, i in keys]


def _requests(keys: Sequence[tuple[Problem, int]], sampling: Sampling) -> Iterator[Request]:
    for problem, sample in keys:
        yield Request(
            problem=problem.id,
            sample=sample,
            ask=problem.ask,
            sampling=sampling,
            seed=seed_of(sampling.seed, problem.id, sample),
        )


def seed_of(seed: int, problem: str, sample: int) -> int:
    """A sample's own seed, so that it is the same in whatever order and company it is drawn."""
    digest = hashlib.sha256(f"{seed}\0{problem}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def evaluate(
    suite: Suite,
    source: Source,
    data: Data,
    plan: Plan,
    folder: Path,
    *,
    tools: Tools,
    restart: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[Judged]]:
    """Samples, verdicts, and the result with everything that it depends on.

    Samples are all drawn before the first program is run, so that they are kept where none can be.

    Raises:
        ConfigError, SandboxError, CodeLlamaError: see `generate` and `judge`.
    """
    started = time.monotonic()
    samples = generate(suite, source, data, plan, folder, restart=restart, progress=progress)
    generated = time.monotonic()
    seen = None if progress is None else lambda done, total: progress("programs", done, total)
    judged = judge(suite, samples, tools, seen)
    result = {
        "suite": suite.name,
        "variant": suite.variant,
        "title": suite.title,
        "model": source.facts(),
        "data": data.facts(),
        "problems": len({problem.id for problem, _, _ in samples}),
        "samples": len(samples),
        "settings": asdict(plan.sampling) | {"limit": plan.limit, "every": plan.every},
        "sandbox": tools.level,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "generate_s": round(generated - started, 1),
        "judge_s": round(time.monotonic() - generated, 1),
        "tokens": sum(reply.n_tokens for _, _, reply in samples),
        "no_reply": sum(reply.error is not None for _, _, reply in samples),
        "cut_at_limit": sum(reply.finish == "length" for _, _, reply in samples),
        **summary_entry(suite.summary(judged)),
    }
    return result, judged


def summary_entry(summary: Summary) -> dict[str, Any]:
    """Figures and curves as plain objects."""
    return {
        "figures": [asdict(figure) for figure in summary.figures],
        "curves": [
            asdict(curve) | {"lines": {k: [list(p) for p in v] for k, v in curve.lines.items()}}
            for curve in summary.curves
        ],
    }


def versions() -> dict[str, str | None]:
    """Of what the figures may depend on."""
    try:
        own = version("codellama")
    except PackageNotFoundError:
        own = None
    return {"codellama": own, "python": platform.python_version(), "machine": platform.machine()}
