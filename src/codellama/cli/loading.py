"""The flags that name a model and how it runs, and loading it with a line about what it is."""

from __future__ import annotations

import threading
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.sampling import describe
from codellama.cli.sizes import counted, human_count
from codellama.cli.terminal import Console
from codellama.model.family import matches

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams


WEIGHTS = ("f32", "f16", "bf16", "int8", "int4", "fp8")
KV_CACHES = ("f32", "f16", "q8_0", "bf16", "fp8")
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
    add_engine_arguments(group)
    add("--speculation", choices=("lookup", "off"), default="lookup", help="guess ahead what the "
        "text repeats, where that is quicker; results are the same (default: lookup)")  # fmt: skip
    add("--draft-model", metavar="M", help="a smaller model of the same vocabulary, to guess the "
        "rest")  # fmt: skip
    add("--draft-tokens", type=int, metavar="N", help="guess up to N tokens at a time (default: "
        "15)")  # fmt: skip
    add(
        "--allow-control",
        action="store_true",
        help="let the text spell control tokens, such as <PRE>, as it does in Meta's code",
    )


def add_engine_arguments(
    parser: ArgumentParser | _ArgumentGroup, engines: tuple[str, ...] = ("cpu", "torch")
) -> None:
    """The flags that say what computes, and in which numbers; all None where they are not given."""
    add = parser.add_argument
    add("--device", metavar="D", help="cuda for a GPU, cuda:1 for the second (default: the CPU)")
    others = ", or vLLM" if "vllm" in engines else ""
    add("--engine", choices=engines, help=f"the native core, or PyTorch{others} (default: cpu, or "
        "torch where --device or --weights ask for it)")  # fmt: skip
    add("--weights", choices=WEIGHTS, help="what PyTorch keeps matrices in (default: as "
        "they are stored)")  # fmt: skip
    add(
        "--kv-cache",
        choices=KV_CACHES,
        help="how keys and values are kept; bf16 and fp8 with "
        "PyTorch only (default: f16 beside quantised weights, else f32; on a GPU as activations)",
    )


def engine_options(args: Namespace) -> dict[str, Any]:
    """What the flags of `add_engine_arguments` say, as keywords of `LLM.load`."""
    return {name: getattr(args, name) for name in ("engine", "device", "weights", "kv_cache")}


def load(args: Namespace, params: SamplingParams, console: Console) -> LLM:
    """Loads the model and says what it is, how it runs and how it will be sampled.

    Raises:
        CodeLlamaError: it cannot be loaded.
    """
    from codellama.engine.llm import LLM
    from codellama.engine.plan import DRAFT_TOKENS

    patience = threading.Timer(_PATIENCE_S, console.say, [f"loading {args.model} ..."])
    patience.daemon = True
    patience.start()
    try:
        llm = LLM.load(
            args.model,
            **engine_options(args),
            max_seq_len=args.max_seq_len,
            max_num_seqs=min(args.n, 16),
            n_threads=args.threads,
            chat_form=getattr(args, "chat_form", None),
            speculation=args.speculation,
            draft_model=args.draft_model,
            draft_tokens=DRAFT_TOKENS if args.draft_tokens is None else args.draft_tokens,
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
        f"context {llm.max_seq_len}, {_engine(args)}{_guessing(args)}"
    )


def _guessing(args: Namespace) -> str:
    if args.speculation == "off":
        return ", no guessing ahead"
    return "" if args.draft_model is None else f", {Path(args.draft_model).name} guesses ahead"


def _engine(args: Namespace) -> str:
    from codellama.engine.loading import engine_of

    engine = engine_of(args.engine, args.device, args.weights)
    if engine == "torch":
        return "torch engine" if args.device is None else f"torch engine on {args.device}"
    from codellama import _native

    n = _native.n_physical_threads() if args.threads is None else args.threads
    return f"cpu engine with {counted(n, 'thread')}"
