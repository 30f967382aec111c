"""`codellama eval`: published evaluations of a model, with a report."""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli import loading, terminal
from codellama.cli.progress import Progress
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.cli.values import above_zero

if TYPE_CHECKING:
    from codellama.eval.sources import Source
    from codellama.eval.suite import Sampling, Suite
    from codellama.eval.suites import Options
    from codellama.sandbox import Sandbox

_BATCH = 64
_CPU_S = {"humaneval-plus": 20.0, "apps": 4.0}
"""Processor seconds of a program, where it is not HumanEval's 3."""
_SUITES = """\
suites:
  humaneval, humaneval-plus     write a function's body; pass@k
  mbpp                          write a function, after three examples or (--chat) none
  apps                          write a program; three difficulties
  multipl-e                     HumanEval in another --language
  infill-single-line, infill-multi-line, infill-random-span
                                fill a hole in HumanEval's solutions; --order psm, spm or both
  docstrings                    say what a function does; BLEU
  lines                         complete a line at the end of a long file
  perplexity                    of long files, by position
  keys                          find a number far back in the prompt
  truthfulqa, toxigen, bold     judged by your --scorer"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama eval SUITE [SUITE ...] [options]"
    parser.description = (
        "Run published evaluations. Samples are kept as they come, so that a run that was stopped\n"
        "goes on where it was; programs that a model writes run in a sandbox or not at all."
    )
    parser.epilog = _SUITES
    add = parser.add_argument
    add("suites", metavar="SUITE", nargs="*", help="what to run; none makes the report of --out "
        "anew")  # fmt: skip
    source = parser.add_argument_group("what replies")
    add = source.add_argument
    add("--model", metavar="M", help="nano, a hub name, or the path of a folder or .gguf file "
        "(default: nano); with --url, the server's name for it")  # fmt: skip
    add("--url", metavar="URL", help="a server that speaks OpenAI's API; its key is read from the "
        "environment, OPENAI_API_KEY")  # fmt: skip
    add("--samples", type=Path, metavar="F", help="samples that are there: JSONL with `task_id` "
        "and `completion`")  # fmt: skip
    add("--max-seq-len", type=above_zero, metavar="N", help="tokens of context (default: the "
        "model's)")  # fmt: skip
    add("--threads", type=above_zero, metavar="N", help="threads of the cpu engine (default: one "
        "for each core)")  # fmt: skip
    loading.add_engine_arguments(source)
    add("--cluster", type=above_zero, metavar="N", help="N engines on a Ray cluster: see "
        "`codellama cluster`")  # fmt: skip
    add("--batch", type=above_zero, metavar="N", help="replies computed at the same time "
        f"(default: {_BATCH}; 8 for --url)")  # fmt: skip
    what = parser.add_argument_group("what is asked")
    add = what.add_argument
    add("--data", type=Path, metavar="P", help="the suite's file, or a folder that has it "
        "(default: the hub's)")  # fmt: skip
    add("--n", type=above_zero, metavar="N", help="samples to each problem (default: the "
        "protocol's)")  # fmt: skip
    add("--temperature", type=float, metavar="T", help="default: the protocol's; for several "
        "samples 0.8")  # fmt: skip
    add("--top-p", type=float, metavar="P", help="default: the protocol's")
    add("--max-tokens", type=above_zero, metavar="N", help="of a reply (default: the suite's)")
    add("--seed", type=int, default=0, help="default: 0")
    add("--limit", type=above_zero, metavar="N", help="only the first N problems")
    add("--every", type=above_zero, default=1, metavar="N", help="only every Nth problem")
    add("--order", choices=("psm", "spm", "both"), default="psm", help="of infilling prompts "
        "(default: psm)")  # fmt: skip
    add("--language", metavar="L", help="of multipl-e (cpp, java, sh, ...) or lines (python, java, "
        "csharp)")  # fmt: skip
    add("--chat", action="store_true", help="ask as one asks an Instruct model, without examples")
    add("--lengths", type=_numbers, metavar="N,N", help="of keys, in tokens")
    add("--examples", type=above_zero, metavar="N", help="of keys, for each length and position "
        "(default: 64)")  # fmt: skip
    add("--scorer", metavar="CMD", help="the program that judges truthfulqa, toxigen or bold")
    out = parser.add_argument_group("what comes out")
    add = out.add_argument
    add("--out", type=Path, metavar="DIR", help="folder of samples, results and report (default: "
        "evaluation/MODEL)")  # fmt: skip
    add("--restart", action="store_true", help="draw all samples anew")
    add("--no-run", action="store_true", help="only draw samples, to be judged elsewhere")
    add("--workers", type=above_zero, default=2, metavar="N", help="programs judged at the same "
        "time (default: 2)")  # fmt: skip
    add("--json", action="store_true", help="the results as JSON, one line for each suite")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    _check(args)
    console = Console.open(args)
    from codellama.eval import report

    if not args.suites:
        page, _ = report.write(_existing(args.out))
        console.say(f"report: {page}")
        return 0
    from codellama.eval.suites import suite

    for name in args.suites:  # a wrong name is said before a model is loaded
        suite(name, _options(args, "psm", len))
    results = []
    with closing(_source(args, console)) as source:
        folder = args.out or Path("evaluation") / source.name.replace("/", "-")
        for name in args.suites:
            for order in _orders(args, name):
                chosen: Suite = suite(name, _options(args, order, source.count))
                found = _one(args, chosen, source, folder, console)
                if found is not None:
                    results.append(found)
    if not results:
        return 0
    page, _ = report.write(folder)
    if args.json:
        import json

        console.write("".join(json.dumps(one) + "\n" for one in results))
    else:
        console.write(report.table(results))
    console.say(f"report: {page}")
    return 0


def _one(
    args: Namespace, suite: Suite, source: Source, folder: Path, console: Console
) -> dict[str, Any] | None:
    from codellama.eval import report
    from codellama.eval.data import find
    from codellama.eval.judge import Tools
    from codellama.eval.run import Plan, evaluate, generate, stem
    from codellama.eval.sources.stored import StoredSource
    from codellama.eval.toolchains import require

    if suite.name == "multipl-e" and not args.no_run:
        require(suite.variant)
    data = find(suite, args.data)
    stored = source.n if isinstance(source, StoredSource) else None
    sampling = _sampling(args, suite, stored)
    plan = Plan(sampling=sampling, limit=args.limit, every=args.every)
    name = stem(suite, plan)
    console.say(f"{suite.title}: {data.origin}")
    with _Shown(console) as shown:
        if args.no_run:
            generate(suite, source, data, plan, folder, restart=args.restart, progress=shown)
            console.say(f"samples: {folder / name}.samples.jsonl")
            return None
        tools = Tools(
            lambda: _open_box(suite, args.workers),
            n_workers=args.workers,
            scorer=args.scorer,
        )
        with tools:
            result, judged = evaluate(
                suite, source, data, plan, folder, tools=tools, restart=args.restart, progress=shown
            )
    report.save(result, judged, folder / name)
    return result


@contextmanager
def _open_box(suite: Suite, n_workers: int) -> Iterator[Sandbox]:
    from codellama.eval import toolchains
    from codellama.sandbox import Limits, Sandbox

    cpu_s = _CPU_S.get(suite.name, 3.0)
    if suite.name != "multipl-e":
        limits = Limits(cpu_s=cpu_s, wall_s=10 + 4 * cpu_s)
        with Sandbox.open(limits=limits, n_workers=n_workers) as box:
            yield box
        return
    language = suite.variant
    programs = toolchains.programs(language)
    limits = toolchains.limits(cpu_s)
    with Sandbox.open(limits=limits, n_workers=n_workers, programs=programs) as box:
        toolchains.prove(box, language)
        yield box


def _source(args: Namespace, console: Console) -> Source:
    if args.samples is not None:
        from codellama.eval.sources.stored import StoredSource

        return StoredSource(args.samples)
    if args.url is not None:
        from codellama.eval.sources.http import HttpSource

        key = os.environ.get("OPENAI_API_KEY")
        return HttpSource(args.url, model=args.model, key=key, n_at_once=args.batch or 8)
    model = args.model or "nano"
    options: dict[str, Any] = {
        **loading.engine_options(args),
        "max_seq_len": args.max_seq_len,
        "max_num_seqs": args.batch or _BATCH,
        "n_threads": args.threads,
    }
    if args.cluster is not None:
        from codellama.cluster.evaluate import ClusterSource

        return ClusterSource(model, args.cluster, options)
    from codellama.engine.llm import LLM
    from codellama.eval.sources.engine import EngineSource

    console.say(f"loading {model}")
    llm = LLM.load(model, **options)
    for note in llm.notes:
        console.say(note)
    return EngineSource(llm, model, options)


def _sampling(args: Namespace, suite: Suite, stored: int | None) -> Sampling:
    """The protocol's sampling, but for what the flags say."""
    from dataclasses import replace

    found = suite.sampling
    n = args.n or stored or found.n
    temperature = found.temperature if args.temperature is None else args.temperature
    if n > 1 and stored is None and args.temperature is None and not found.temperature:
        temperature = 0.8  # the paper's for pass@10 and pass@100; greedy, all would be the same
    return replace(
        found,
        n=n,
        temperature=temperature,
        top_p=found.top_p if args.top_p is None else args.top_p,
        seed=args.seed,
        max_tokens=args.max_tokens,
    )


def _options(args: Namespace, order: Any, count: Callable[[str], int]) -> Options:
    from codellama.eval.suites import Options

    return Options(
        order=order,
        language=args.language,
        chat=args.chat,
        lengths=args.lengths or (),
        examples=args.examples,
        seed=args.seed,
        count=count,
    )


def _orders(args: Namespace, suite: str) -> Iterator[str]:
    takes_order = suite.startswith("infill-") or suite == "docstrings"
    yield from (
        ("psm", "spm")
        if args.order == "both" and takes_order
        else (("psm",) if args.order == "both" else (args.order,))
    )


def _check(args: Namespace) -> None:
    if args.url is not None and args.samples is not None:
        raise UsageError("--url and --samples both say what replies; give one")
    if args.samples is not None and args.model is not None:
        raise UsageError("--samples are there already, and --model would draw others; give one")
    if args.samples is not None and len(args.suites) != 1:
        raise UsageError("--samples are of one suite: name that one")
    if (args.n or 1) > 1 and args.temperature == 0 and args.samples is None:
        raise UsageError("--n draws several samples, and at temperature 0 all would be the same")
    if not args.suites and args.out is None:
        raise UsageError("say which suites to run")
    if args.data is not None and args.data.is_file() and len(args.suites) > 1:
        raise UsageError("--data is one file and there are several suites; give the folder")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"--out {folder}: there is no such folder")
    return folder


class _Shown:
    """The two phases of a run as a bar each, with the time that is left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(console)
        self._what = ""
        self._began = (0.0, 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._progress.end()
            self._what, self._began = what, (now, done)
        began, before = self._began
        left = ""
        if done > before and done < total:
            seconds = (now - began) / (done - before) * (total - done)
            left = f", {_duration(seconds)} left"
        self._progress.show(done, total, f"{total} {what}{left}")

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.end()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(above_zero(word.strip()) for word in text.split(","))
