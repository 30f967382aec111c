"""The flags that name a model and how it runs, and loading it with a line about what it is."""

from __future__ import annotations

import threading
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.cli.sampling import describe
from codellama.cli.sizes import counted, human_count
from codellama.cli.terminal import Console
from codellama.model.family import matches

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams


_PATIENCE_S = 1.5  # after which a user wants to know what is taking so long


def add_arguments(parser: ArgumentParser) -> None:
    """The flags `load` reads."""
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--model", default="nano", metavar="M", help="nano, a hub name, or the path of a folder or "
        ".gguf file (default: nano)")  # fmt: skip
    add("--max-seq-len", type=int, metavar="N", help="tokens of context (default: the model's)")
    add("--threads", type=int, metavar="N", help="threads of the cpu engine (default: one for each "
        "core)")  # fmt: skip
    add("--engine", choices=("cpu", "torch"), default="cpu", help="default: cpu")
    add(
        "--allow-control",
        action="store_true",
        help="let the text spell control tokens, such as <PRE>, as it does in Meta's code",
    )


def load(args: Namespace, params: SamplingParams, console: Console) -> LLM:
    """Loads the model and says what it is, how it runs and how it will be sampled.

    Raises:
        CodeLlamaError: it cannot be loaded.
    """
    from codellama.engine.llm import LLM

    patience = threading.Timer(_PATIENCE_S, console.say, [f"loading {args.model} ..."])
    patience.daemon = True
    patience.start()
    try:
        llm = LLM.load(
            args.model,
            engine=args.engine,
            max_seq_len=args.max_seq_len,
            max_num_seqs=min(args.n, 16),
            n_threads=args.threads,
            chat_form=getattr(args, "chat_form", None),
        )
    finally:
        patience.cancel()
    for note in llm.notes:
        console.say(note)
    console.say(f"{_described(llm, args)}; {describe(params)}")
    return llm


def _described(llm: LLM, args: Namespace) -> str:
    name = Path(args.model).name
    same = [m.name for m in matches(llm.config) if m.chat_form == llm.chat_form]
    known = f" ({' or '.join(same)})" if same and name not in same else ""
    return (
        f"{name}{known}, {human_count(llm.config.n_params)} parameters, "
        f"context {llm.max_seq_len}, {args.engine} engine{_threads(args)}"
    )


def _threads(args: Namespace) -> str:
    if args.engine != "cpu":
        return ""
    from codellama import _native

    n = _native.n_physical_threads() if args.threads is None else args.threads
    return f" with {counted(n, 'thread')}"
