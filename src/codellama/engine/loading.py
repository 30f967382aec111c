"""From a path to everything an engine is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.lora import open_adapter
from codellama.checkpoint.reader import Reader
from codellama.engine.plan import EnginePlan, free_memory, make_plan
from codellama.engine.prompts import ChatForm
from codellama.errors import ConfigError
from codellama.runners import Runner, load_runner
from codellama.text.tokenizer import Tokenizer

_KV_BYTES = 4  # both runners keep keys and values in float32


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint ready to run, the sizes it runs with, and what its files say about prompts.

    `notes` are sentences for the user about what was decided while loading.
    """

    runner: Runner
    tokenizer: Tokenizer
    plan: EnginePlan
    eos_ids: tuple[int, ...] = ()
    chat_form: ChatForm | None = None
    notes: tuple[str, ...] = ()


def load_model(
    path: str | Path,
    *,
    engine: Literal["cpu", "torch"] = "cpu",
    max_seq_len: int | None = None,
    max_num_seqs: int = 16,
    step_tokens: int = 512,
    n_threads: int | None = None,
    device: str | None = None,
    chat_form: ChatForm | None = None,
    share_prefixes: bool = True,
    adapter: Path | None = None,
) -> Model:
    """Loads a checkpoint. Arguments and errors are those of `LLM.load`.

    Args:
        step_tokens: tokens that one step computes at most; fewer make long prompts slower and the
            replies beside them smoother.
        adapter: the folder of a LoRA adapter to add to the weights.
    """
    if chat_form not in (None, "inst", "step"):
        raise ConfigError(f"`chat_form` is {chat_form!r}; expected 'inst', 'step' or None")
    reader = checkpoint.open(resolve(path))
    config, notes = reader.config, tuple(reader.notes)
    tokenizer = reader.tokenizer()
    if chat_form is None:
        chat_form = reader.chat_form
        if chat_form == "step" and tokenizer.step_id is None:
            chat_form = None
            notes += ("the files speak of <step> turns, and the vocabulary has no such token",)
    plan = make_plan(
        config,
        weight_bytes=_weight_bytes(reader, engine),
        kv_bytes_per_value=_KV_BYTES,
        free_bytes=free_memory(),
        max_seq_len=max_seq_len,
        max_num_seqs=max_num_seqs,
        step_tokens=step_tokens,
        share_prefixes=share_prefixes,
    )
    if plan.max_seq_len > config.max_seq_len:
        notes += (
            f"the context of {plan.max_seq_len} tokens is longer than the {config.max_seq_len} "
            "this model was made for; what it writes far out may make no sense",
        )
    adapted = None if adapter is None else open_adapter(adapter, reader)
    runner = load_runner(
        reader,
        tensors=None if adapted is None else adapted.tensors(reader),
        engine=engine,
        max_seq_len=plan.max_seq_len,
        n_blocks=plan.n_blocks,
        block_size=plan.block_size,
        n_threads=n_threads,
        device=device,
    )
    return Model(
        runner=runner,
        tokenizer=tokenizer,
        plan=plan,
        eos_ids=reader.generation.eos_ids,
        chat_form=chat_form,
        notes=notes,
    )


def _weight_bytes(reader: Reader, engine: str) -> int:
    """Bytes of the weights in memory: as stored, or in PyTorch's float32."""
    if engine == "torch":
        return 4 * reader.config.n_params
    return sum(info.n_bytes for info in reader.infos.values())
