"""`codellama batch`: a file of requests to a file of answers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli import loading, terminal
from codellama.cli.progress import Progress
from codellama.cli.sizes import counted
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.cli.version import package_version

if TYPE_CHECKING:
    from codellama.cluster.batch import Answers
    from codellama.server.settings import Settings


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama batch INPUT OUTPUT [options]"
    parser.description = (
        "Answer a file of requests in OpenAI's batch form, one JSON object a line with custom_id,\n"
        "method, url and body. OUTPUT gets exactly one line for each, in the order they are made.\n"
        "Run again, it goes on where it was stopped. A bad line gets an error, and no more."
    )
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="a .jsonl file of requests")
    add("output", type=Path, metavar="OUTPUT", help="the .jsonl file of answers")
    add("--model", metavar="M", default="nano", help="nano, a hub name, or the path of a folder or "
        ".gguf file (default: nano)")  # fmt: skip
    loading.add_engine_arguments(parser, ("cpu", "torch", "vllm"))
    add("--max-seq-len", type=int, metavar="N", help="tokens of context (default: the model's)")
    add("--max-num-seqs", type=int, default=32, metavar="N", help="replies computed at a time "
        "(default: 32)")  # fmt: skip
    add("--threads", type=int, metavar="N", help="threads of the cpu engine (default: one for each "
        "core)")  # fmt: skip
    add("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs that share each layer "
        "(vllm)")  # fmt: skip
    add("--cluster", action="store_true", help="on the machines of a Ray cluster: see `codellama "
        "cluster`")  # fmt: skip
    add("--workers", type=int, default=1, metavar="N", help="engines on the cluster (default: 1)")
    terminal.add_arguments(parser)


def run(args: Namespace) -> int:
    if args.workers != 1 and not args.cluster:
        raise UsageError("--workers are those of --cluster")
    if args.workers < 1:
        raise UsageError("--workers must be 1 or more")
    from codellama.cluster import batch
    from codellama.server.settings import Settings

    settings = batch.batch_settings(
        Settings(
            models={"codellama": args.model},
            **loading.engine_options(args),
            max_seq_len=args.max_seq_len,
            max_num_seqs=args.max_num_seqs,
            step_tokens=512 if args.device in (None, "cpu") else None,
            threads=args.threads,
            tensor_parallel=args.tensor_parallel,
        )
    )
    console = Console.open(args)
    n_lines = batch.count_lines(args.input)
    answers = batch.Answers(args.output, args.input)
    shown = Progress(console)

    def progress(done: int, total: int) -> None:
        shown.show(done, total, counted(total, "line"))

    if answers.n_earlier:
        console.say(f"{counted(answers.n_earlier, 'line')} of {n_lines} had an answer already")
    try:
        if answers.n_earlier < n_lines:
            _answer(args, answers, settings, f"codellama-{package_version()}", progress, n_lines)
    finally:
        answers.close()
        shown.end()
    console.say(
        f"{args.output}: {counted(n_lines, 'answer')}, {answers.n_bad} of this run's with an error"
    )
    return 0


def _answer(
    args: Namespace, answers: Answers, settings: Settings, version: str, progress: Any, n_lines: int
) -> None:
    from codellama.cluster import batch

    if args.cluster:
        from codellama.cluster import ray_batch

        ray_batch.run(args.input, answers, settings, version, progress, n_lines, args.workers)
        return
    from codellama.cluster.engines import loaded

    with loaded(settings) as served:
        batch.run(args.input, answers, served, settings, version, progress, n_lines)
