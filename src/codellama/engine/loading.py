"""From a path to everything an engine is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.lora import open_adapter
from codellama.checkpoint.reader import Reader
from codellama.engine.draft import Drafter
from codellama.engine.draft_model import DraftModel, require_same_vocabulary
from codellama.engine.plan import DRAFT_TOKENS, EnginePlan, Speculative, free_memory, make_plan
from codellama.engine.prompts import ChatForm
from codellama.engine.sampler import kernel_for
from codellama.errors import ConfigError
from codellama.runners import (
    WEIGHT_KINDS,
    EngineName,
    KVFormat,
    Runner,
    WeightKind,
    device_memory,
    kv_bytes_per_token,
    load_runner,
    natural_kv_cache,
    weight_bytes,
)
from codellama.text.tokenizer import Tokenizer

_HOST_STEP = 512
_DEVICE_DRAFT_COST = 0.05  # a guess is computed while the weights are read; not measured yet
_DEVICE_STEP = 2048  # fewer would leave matrix units waiting for weights


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint ready to run, the sizes it runs with, and what its files say about prompts.

    `notes` are sentences for the user about what was decided while loading.
    """

    runner: Runner
    tokenizer: Tokenizer
    plan: EnginePlan
    drafters: tuple[Drafter, ...] = ()
    eos_ids: tuple[int, ...] = ()
    chat_form: ChatForm | None = None
    notes: tuple[str, ...] = ()


def load_model(
    path: str | Path,
    *,
    engine: EngineName | None = None,
    max_seq_len: int | None = None,
    max_num_seqs: int = 16,
    step_tokens: int | None = None,
    prompt_tokens: int | None = None,
    n_threads: int | None = None,
    kv_cache: str | None = None,
    device: str | None = None,
    weights: str | None = None,
    chat_form: ChatForm | None = None,
    share_prefixes: bool = True,
    speculation: Speculative = "lookup",
    draft_model: str | Path | None = None,
    draft_tokens: int = DRAFT_TOKENS,
    adapter: Path | None = None,
) -> Model:
    """Loads a checkpoint. Arguments and errors are those of `LLM.load`.

    Args:
        step_tokens: tokens that one step computes at most; fewer make long prompts slower and the
            replies beside them smoother. None takes 512 on a CPU and 2048 on a GPU.
        prompt_tokens: how many of them are prompts' unless a crowd waits; None is no bound.
        adapter: the folder of a LoRA adapter to add to the weights.
    """
    if chat_form not in (None, "inst", "step"):
        raise ConfigError(f"`chat_form` is {chat_form!r}; expected 'inst', 'step' or None")
    if draft_model is not None and speculation == "off":
        raise ConfigError(
            "a draft model was named and speculation is off", hint="leave out one of them"
        )
    kind = _weight_kind(weights)
    engine = engine_of(engine, device, kind)
    on_device = device_memory(device if engine == "torch" else None)
    if step_tokens is None:
        step_tokens = _HOST_STEP if on_device is None else _DEVICE_STEP
    reader = checkpoint.open(resolve(path))
    config, notes = reader.config, tuple(reader.notes)
    tokenizer = reader.tokenizer()
    if chat_form is None:
        chat_form = reader.chat_form
        if chat_form == "step" and tokenizer.step_id is None:
            chat_form = None
            notes += ("the files speak of <step> turns, and the vocabulary has no such token",)
    readers = [reader]
    if draft_model is not None:
        readers.append(checkpoint.open(resolve(draft_model)))
        require_same_vocabulary(tokenizer, readers[1].tokenizer(), str(draft_model))
    sizes = [weight_bytes(each, engine, device, kind) for each in readers]
    kept = [_kv_format(each, engine, kv_cache, device, kind) for each in readers]
    plan = make_plan(
        config,
        weight_bytes=sum(sizes),
        kv_bytes_per_token=sum(
            kv_bytes_per_token(each.config, format)
            for each, format in zip(readers, kept, strict=True)
        ),
        free_bytes=free_memory() if on_device is None else on_device,
        memory="memory" if on_device is None else f"memory of {device}",
        max_seq_len=max_seq_len,
        max_num_seqs=max_num_seqs,
        step_tokens=step_tokens,
        prompt_tokens=prompt_tokens,
        share_prefixes=share_prefixes,
        speculation=speculation,
        draft_tokens=draft_tokens,
    )
    if on_device is not None:
        plan = replace(plan, draft_cost=_DEVICE_DRAFT_COST)
    notes += _notes_on_length(plan, *(each.config.max_seq_len for each in readers))
    tensors = None if adapter is None else open_adapter(adapter, reader).tensors(reader)
    runner, *others = [
        load_runner(
            each,
            tensors=tensors if each is reader else None,
            engine=engine,
            max_seq_len=plan.max_seq_len,
            n_blocks=plan.n_blocks,
            block_size=plan.block_size,
            n_threads=n_threads,
            kv_cache=format,
            device=device,
            weights=kind,
        )
        for each, format in zip(readers, kept, strict=True)
    ]
    drafters = tuple(
        DraftModel(
            other,
            kernel_for(other),
            tokenizer.n_vocab,
            cost=sizes[1] / sizes[0],
            step_tokens=plan.step_tokens,
        )
        for other in others
    )
    return Model(
        runner=runner,
        tokenizer=tokenizer,
        plan=plan,
        drafters=drafters,
        eos_ids=reader.generation.eos_ids,
        chat_form=chat_form,
        notes=notes,
    )


def engine_of(engine: EngineName | None, device: str | None, weights: str | None) -> EngineName:
    """The engine that runs where none is named: PyTorch for what only PyTorch does."""
    if engine is not None:
        return engine
    return "cpu" if device in (None, "cpu") and weights is None else "torch"


def _notes_on_length(
    plan: EnginePlan, made_for: int, draft_made_for: int | None = None
) -> tuple[str, ...]:
    """What to say of a context that is longer than the models were made for."""
    notes: tuple[str, ...] = ()
    if plan.max_seq_len > made_for:
        notes += (
            f"the context of {plan.max_seq_len} tokens is longer than the {made_for} "
            "this model was made for; what it writes far out may make no sense",
        )
    if draft_made_for is not None and plan.max_seq_len > draft_made_for:
        notes += (
            f"the draft model was made for {draft_made_for} tokens; further out its "
            "guesses will seldom be right, which costs time",
        )
    return notes


def _kv_format(
    reader: Reader,
    engine: EngineName,
    wanted: str | None,
    device: str | None,
    weights: WeightKind | None,
) -> KVFormat:
    """How keys and values are kept. Raises ConfigError when there is no such way."""
    if wanted is None:
        return natural_kv_cache(reader, engine, device, weights)
    formats = {format.lower(): format for format in KVFormat}
    if engine == "cpu":  # the native core's
        formats = {name: formats[name] for name in ("f32", "f16", "q8_0")}
    if wanted not in formats:
        raise ConfigError(
            f"`kv_cache` is {wanted!r}; expected {', '.join(map(repr, formats))} or None",
            hint=f"the torch engine has {wanted}" if wanted.upper() in list(KVFormat) else None,
        )
    return formats[wanted]


def _weight_kind(wanted: str | None) -> WeightKind | None:
    """What matrices become. Raises ConfigError when there is no such kind."""
    for kind in WEIGHT_KINDS:
        if kind == wanted:
            return kind
    if wanted is None:
        return None
    raise ConfigError(
        f"`weights` is {wanted!r}; expected {', '.join(map(repr, WEIGHT_KINDS))} or None"
    )
