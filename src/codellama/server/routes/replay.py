"""Answers that can be repeated bit for bit: everything they depend on, in one object.

A reply depends on its ids, sampling and seed, and on the weights and the engine's arithmetic;
not on what else was running. A bundle has all of these, and `POST /v1/replay` runs it again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from codellama.checkpoint.hub import resolve
from codellama.engine.completion import Completion
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.errors import CheckpointError
from codellama.server.answers import whole
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal
from codellama.server.schema import Body, Ids, Tokens
from codellama.server.served import Served
from codellama.server.web import Call, Endpoint

_FORMAT = 1
_WEIGHTS = (".safetensors", ".gguf", ".pth")
_LONG = 1 << 20  # hashing weights is nothing to wait for on the event loop


class Bundle(Body):
    """One reply and what it came from."""

    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)]
    version: str
    model: str
    weights_sha256: str
    arithmetic: str
    prompt_ids: Ids
    stop_ids: Annotated[list[Tokens], Field(max_length=64)]
    bare: bool
    begun: Annotated[str, Field(max_length=1024)] = ""
    sampling: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    token_ids: Annotated[list[Tokens], Field(max_length=1 << 17)]
    text: str


async def bundles(
    call: Call, served: Served, generation: Generation, found: Sequence[Completion]
) -> list[dict[str, Any]]:
    """A bundle for each reply."""
    digest = await call.state.off_loop(_LONG, lambda: weights_sha256(served))
    sampling = dataclasses.asdict(generation.params)
    sampling.pop("seed")
    sampling["logit_bias"] = {str(i): bias for i, bias in sampling["logit_bias"].items()}
    return [
        {
            "format": _FORMAT,
            "version": call.state.version,
            "model": served.name,
            "weights_sha256": digest,
            "arithmetic": _arithmetic(served),
            "prompt_ids": list(prompt.ids),
            "stop_ids": sorted(prompt.stop_ids),
            "bare": prompt.bare,
            "begun": prompt.begun,
            "sampling": sampling,
            "seed": one.seed,
            "token_ids": list(one.token_ids),
            "text": one.text,
        }
        for one, prompt in zip(
            found, (p for p in generation.prompts for _ in range(generation.n)), strict=True
        )
    ]


def weights_sha256(served: Served) -> str:
    """The digest of a model's weight files, read once; empty where there are none."""
    if served.digests:
        return served.digests[0]
    try:
        path = resolve(served.path)
    except CheckpointError:
        path = Path(served.path)
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in _WEIGHTS)
    if served.adapter is not None:
        files += sorted(Path(served.adapter).glob("adapter_*"))
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    served.digests.append(total.hexdigest() if files else "")
    return served.digests[0]


def _arithmetic(served: Served) -> str:
    """What the numbers' last bits depend on besides the weights."""
    runner = served.model.runner
    return f"{type(runner).__name__} {getattr(runner, 'simd', '')}".strip()


async def replay(call: Call, body: Bundle) -> None:
    """`POST /v1/replay`: a bundle run again; says whether the reply is the same, and why not."""
    served = call.state.find(body.model)
    digest = await call.state.off_loop(_LONG, lambda: weights_sha256(served))
    prompt = Prompt(
        ids=tuple(body.prompt_ids), stop_ids=frozenset(body.stop_ids), bare=body.bare,
        begun=body.begun,
    )  # fmt: skip
    generation = served.service.submit([prompt], _params(body), 1, scope=call.key_scope)
    async with call.watching(generation):
        (found,) = await whole(generation)
    ids = list(found.token_ids)
    pairs = zip(ids, body.token_ids, strict=False)
    differs = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if differs is None and len(ids) != len(body.token_ids):
        differs = min(len(ids), len(body.token_ids))
    expected = {
        "version": (body.version, call.state.version),
        "weights_sha256": (body.weights_sha256, digest),
        "arithmetic": (body.arithmetic, _arithmetic(served)),
    }
    await call.json(
        {
            "equal": differs is None and found.text == body.text,
            "first_difference": differs,
            "changed": [name for name, (then, now) in expected.items() if then != now],
            "token_ids": ids,
            "text": found.text,
        }
    )


def _params(body: Bundle) -> SamplingParams:
    fields = dict(body.sampling)
    biases = fields.pop("logit_bias", {})
    try:
        fields["logit_bias"] = {int(token): bias for token, bias in biases.items()}
        fields["stop"] = tuple(fields.get("stop", ()))
        return SamplingParams(**fields, seed=body.seed)
    except (TypeError, ValueError, AttributeError):
        raise Refusal(
            400, "`sampling` is not that of a bundle", code="invalid_value", param="sampling"
        ) from None


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/replay", ("POST",), replay, Bundle, generates=True),
]
