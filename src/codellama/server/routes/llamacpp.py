"""llama.cpp's API, as llama.vim, llama.vscode and Continue use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from codellama.engine.completion import Completion, Piece
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server import prompting
from codellama.server.answers import whole
from codellama.server.generation import Generation
from codellama.server.lines import LineLimit
from codellama.server.schema import (
    Body,
    Extra,
    InfillRequest,
    LlamaCompletionRequest,
    LlamaRequest,
    TemplateRequest,
)
from codellama.server.served import Served
from codellama.server.shapes import event, timings
from codellama.server.streaming import SSE, written
from codellama.server.web import Call, Endpoint

_SLASHES = (".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".js", ".jsx", ".ts", ".tsx", ".go",
            ".rs", ".swift", ".kt", ".php", ".scala", ".dart")  # fmt: skip


async def infill(call: Call, body: InfillRequest) -> None:
    """`POST /infill`: the hole after `input_prefix` + `prompt` and before `input_suffix`."""
    served = call.state.find(body.model)
    prefix = _extra(body.input_extra or ()) + body.input_prefix + body.prompt
    wanted = None if body.n_predict < 0 else body.n_predict
    prompt, was_cut = await prompting.trimmed_infill(
        call, served, prefix, body.input_suffix, wanted, _telling(call, body)
    )
    await _answer(call, served, body, prompt, was_cut=was_cut)


async def completion(call: Call, body: LlamaCompletionRequest) -> None:
    """`POST /completion`: a text to go on with, or a hole that it spells."""
    served = call.state.find(body.model)
    if isinstance(body.prompt, str):
        prompt = await prompting.text_prompt(call, served, body.prompt, _telling(call, body))
    else:
        prompt = prompting.ids_prompt(served, body.prompt)
    await _answer(call, served, body, prompt, was_cut=False)


def _seed(body: LlamaRequest) -> int | None:
    return None if body.seed == -1 else body.seed  # -1 asks for a new one


def _telling(call: Call, body: LlamaRequest) -> prompting.Telling:
    return prompting.telling(call, body.order, seed=_seed(body))


async def _answer(
    call: Call, served: Served, body: LlamaRequest, prompt: Prompt, *, was_cut: bool
) -> None:
    n = body.n_cmpl or body.n or 1
    params = prompting.drawn(
        call.state.settings,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=_seed(body),
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        max_tokens=body.n_predict,
    )
    generation = served.service.submit([prompt], params, n, scope=call.key_scope)
    lines = [
        LineLimit(body.n_indent, body.t_max_predict_ms / 1000 if body.t_max_predict_ms else None)
        for _ in range(n)
    ]
    is_warm_up = body.n_predict == 0
    async with call.watching(generation):
        if body.stream and not is_warm_up:
            await call.stream(SSE, _events(call, served, generation, lines, was_cut, params))
            return
        texts = await _texts(generation, lines)
        found = await whole(generation)
    answers = [
        _object(
            served, generation, i, "" if is_warm_up else texts[i], one, lines[i], was_cut, params
        )
        for i, one in enumerate(found)
    ]
    if body.response_fields is not None:
        answers = [_picked(answer, body.response_fields) for answer in answers]
    await call.json(answers if n > 1 else answers[0])


async def _texts(generation: Generation, lines: Sequence[LineLimit]) -> list[str]:
    """The replies' texts; the generation ends early when the lines of each say so."""
    parts: list[list[str]] = [[] for _ in lines]
    async for batch in generation.batches():
        for index, piece in batch:
            parts[index].append(lines[index].push(piece.text))
        if all(line.is_over for line in lines):
            generation.cancel()
    return ["".join(some) + line.finish() for some, line in zip(parts, lines, strict=True)]


def _events(
    call: Call,
    served: Served,
    generation: Generation,
    lines: Sequence[LineLimit],
    was_cut: bool,
    params: SamplingParams,
) -> AsyncIterator[bytes]:
    untold: list[list[int]] = [[] for _ in lines]  # ids whose text is held back

    def write(index: int, piece: Piece) -> bytes:
        line, one = lines[index], piece.completion
        untold[index] += piece.token_ids
        text = line.push(piece.text)
        if all(line.is_over for line in lines):
            generation.cancel()
        if one is not None:
            last = _object(
                served, generation, index, text + line.finish(), one, line, was_cut, params
            )
            return event(last | {"tokens": untold[index]})
        if not text:
            return b""
        ids, untold[index] = untold[index], []
        return event({"index": index, "content": text, "tokens": ids, "stop": False})

    limit = call.state.settings.limits.unread_bytes
    return written(generation, write, lambda refusal: event(refusal.body("openai")), limit)


def _object(
    served: Served,
    generation: Generation,
    index: int,
    text: str,
    one: Completion,
    line: LineLimit,
    was_cut: bool,
    params: SamplingParams,
) -> dict[str, Any]:
    kind = "eos"
    if one.stop_string is not None:
        kind = "word"
    elif line.is_over or one.finish_reason != "stop":
        kind = "limit"
    return {
        "index": index,
        "content": text,
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": served.name,
        "tokens_predicted": len(one.token_ids),
        "tokens_evaluated": one.prompt_tokens,
        "generation_settings": {
            "n_ctx": served.max_seq_len,
            "n_predict": -1 if params.max_tokens is None else params.max_tokens,
            "temperature": params.temperature,
            "top_k": params.top_k or 0,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "seed": one.seed,
            "stop": list(params.stops),
        },
        "prompt": "",
        "has_new_line": "\n" in text,
        "truncated": was_cut,
        "stop_type": kind,
        "stopping_word": one.stop_string or "",
        "tokens_cached": one.cached_tokens,
        "timings": timings(one),
    }


def _picked(answer: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields asked for; a path such as `timings/prompt_n` becomes a key of that name."""
    found: dict[str, Any] = {}
    for field in fields:
        value: Any = answer
        for part in field.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[field] = value
    return found


_MISSING = object()


def _extra(extras: Sequence[Extra]) -> str:
    """Pieces of other files, each under a comment with its name."""
    parts = []
    for extra in extras:
        name = (extra.filename or "").replace("\n", " ")
        mark = "//" if name.lower().endswith(_SLASHES) else "#"
        head = f"{mark} {name}\n" if name else ""
        parts.append(f"{head}{extra.text}" + "\n" * (not extra.text.endswith("\n")))
    return "".join(parts)


async def props(call: Call, _: Body) -> None:
    """`GET /props`."""
    served = call.state.find("")
    await call.json(
        {
            "default_generation_settings": {
                "n_ctx": served.max_seq_len,
                "params": {
                    "temperature": call.state.settings.temperature,
                    "top_p": call.state.settings.top_p,
                },
            },
            "total_slots": served.model.plan.max_num_seqs,
            "model_path": served.name,
            "model_alias": served.name,
            "chat_template": "",
            "modalities": {"vision": False, "audio": False},
            "build_info": call.state.version,
        }
    )


async def slots(call: Call, _: Body) -> None:
    """`GET /slots`: how many sequences there is room for, and how many run."""
    served = call.state.find("")
    running = served.service.n_running
    await call.json(
        [
            {"id": i, "n_ctx": served.max_seq_len, "is_processing": i < running}
            for i in range(served.model.plan.max_num_seqs)
        ]
    )


async def adapters(call: Call, _: Body) -> None:
    """`GET /lora-adapters`: none are loaded."""
    await call.json([])


async def template(call: Call, body: TemplateRequest) -> None:
    """`POST /apply-template`: a conversation as the text of its ids, markers included."""
    served = call.state.find(body.model)
    prompt = await prompting.chat(call, served, body.messages)
    tokenizer = served.model.tokenizer
    parts: list[str] = []
    run: list[int] = []
    for token in prompt.ids:
        if token in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.step_id):
            parts += [tokenizer.decode(run), tokenizer.piece(token)]
            run = []
        else:
            run.append(token)
    await call.json({"prompt": "".join([*parts, tokenizer.decode(run)])})


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/infill", ("POST",), infill, InfillRequest, generates=True),
    Endpoint("/completion", ("POST",), completion, LlamaCompletionRequest, generates=True),
    Endpoint("/completions", ("POST",), completion, LlamaCompletionRequest, generates=True),
    Endpoint("/props", ("GET",), props),
    Endpoint("/slots", ("GET",), slots),
    Endpoint("/lora-adapters", ("GET",), adapters),
    Endpoint("/apply-template", ("POST",), template, TemplateRequest),
]
