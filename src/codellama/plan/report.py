"""A whole plan as one object: memory, where it fits, speed, users, cost; and training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from codellama.errors import OutOfMemory
from codellama.plan import hardware as hw
from codellama.plan import layout, memory, training
from codellama.plan.hardware import Hardware
from codellama.plan.layout import Layout
from codellama.plan.speed import Load, Speed
from codellama.plan.subject import Subject
from codellama.quant.formats import Format
from codellama.quant.mixes import MIXES

_STEP_TOKENS = 512
_USABLE = 0.9  # of a computer's memory


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked for. `token_s` is the longest wait between a user's tokens; `mix` None takes
    the weights as they are, or what fits."""

    context: int
    n_users: int = 1
    load: Load = field(default_factory=Load)
    token_s: float = 0.05
    mix: str | None = None
    kv_cache: Format | None = None
    mfu: float = 0.43


def make(subject: Subject, hardware: Hardware, wishes: Wishes) -> dict[str, Any]:
    """The plan of serving a model.

    Raises:
        OutOfMemory: the weights and one context do not fit the devices in any format.
    """
    found = {
        "model": subject.name,
        "parameters": subject.config.n_params,
        "stored": subject.format,
        "hardware": asdict(hardware),
        "weights": memory.weight_parts(subject.config, subject.formats),
        "formats": formats(subject, wishes),
    }
    on = _on_cpu if hardware.kind == "cpu" else _on_gpus
    return found | on(subject, hardware, wishes)


def formats(subject: Subject, wishes: Wishes) -> dict[str, dict[str, int]]:
    """For each format: the file, and our CPU engine's memory with one context, by part."""
    found = {}
    for mix in MIXES:
        kinds = subject.in_mix(mix)
        resident = _cpu_memory(subject, mix, wishes)
        found[mix] = {
            "gguf_bytes": memory.gguf_bytes(subject, mix),
            "weights": sum(memory.weight_parts(subject.config, kinds).values()),
            **{f"resident_{part}": n for part, n in asdict(resident).items()},
            "resident": resident.total,
        }
        if mix in ("f32", "f16", "bf16"):
            found[mix]["folder_bytes"] = memory.folder_bytes(subject, mix)  # type: ignore[arg-type]  # narrowed by the line above
    return found


def _cpu_memory(subject: Subject, mix: str | None, wishes: Wishes) -> memory.Resident:
    kinds = subject.formats if mix is None else subject.in_mix(mix)
    return memory.cpu_resident(
        subject.config,
        kinds,
        kv_cache=wishes.kv_cache or memory.natural_kv(kinds),
        cached_tokens=wishes.context,
        step_tokens=_STEP_TOKENS,
        is_server=True,
    )


def _on_cpu(subject: Subject, hardware: Hardware, wishes: Wishes) -> dict[str, Any]:
    room = _USABLE * hardware.memory
    stored = _cpu_memory(subject, None, wishes).total
    mix = wishes.mix
    if mix is None and stored > room:
        mix = next((m for m in MIXES if _cpu_memory(subject, m, wishes).total <= room), "q4_0")
    resident = _cpu_memory(subject, mix, wishes)
    if resident.total > room:
        raise OutOfMemory(
            f"{subject.name} in {mix or subject.format} with {wishes.context} tokens of context "
            f"takes {resident.total / 1e9:.1f} GB, and {hardware.name} has "
            f"{hardware.memory / 1e9:.1f} GB",
            hint="ask for less --context or another --format, or for GPUs: --gpu h100 --count 1",
        )
    kinds = subject.formats if mix is None else subject.in_mix(mix)
    per_token = memory.kv_bytes(subject.config, wishes.kv_cache or memory.natural_kv(kinds))
    left = int((room - resident.total) // per_token)
    one = Layout(
        tensor_parallel=1,
        pipeline_parallel=1,
        replicas=hardware.count,
        cached_tokens=wishes.context + left,
        resident=resident,
    )
    speed = Speed(
        config=subject.config,
        hardware=hardware,
        read_bytes=memory.read_bytes(subject.config, kinds),
        kv_bytes=per_token,
        is_quantised=any(format.is_quantised for format in kinds.values()),
    )
    return _serving(subject, hardware, wishes, one, speed, mix)


def _on_gpus(subject: Subject, hardware: Hardware, wishes: Wishes) -> dict[str, Any]:
    one = layout.on_gpus(subject.config, hardware, wishes.context)
    every = dict.fromkeys(subject.formats, Format.BF16)
    speed = Speed(
        config=subject.config,
        hardware=hardware,
        read_bytes=memory.read_bytes(subject.config, every),
        kv_bytes=memory.kv_bytes(subject.config, Format.BF16),
        is_quantised=False,
        tensor_parallel=one.tensor_parallel,
        pipeline_parallel=one.pipeline_parallel,
    )
    return _serving(subject, hardware, wishes, one, speed, None)


def _serving(
    subject: Subject, hardware: Hardware, wishes: Wishes, one: Layout, speed: Speed, mix: str | None
) -> dict[str, Any]:
    load = wishes.load
    alone = speed.decode_tok_s(min(wishes.context, load.prompt + load.reply // 2))
    most = speed.users(load, wishes.token_s, one.cached_tokens)
    replicas_needed = -(-wishes.n_users // most) if most else 0
    name = subject.member.hub_name if subject.member and subject.reader is None else subject.name
    reader = subject.reader
    is_converted = reader is not None and (reader.kind, subject.format) != ("hf", "bf16")
    command = layout.command(
        name, one, hardware, wishes.context, mix, is_converted=is_converted
    )  # fmt: skip
    found: dict[str, Any] = {
        "format": mix or ("bf16" if hardware.kind == "gpu" else subject.format),
        "layout": asdict(one) | {"resident_total": one.resident.total},
        "command": command,
        "prefill_tok_s": speed.prefill_tok_s(load.prompt),
        "first_token_s": speed.prefill_s(load.prompt),
        "decode_tok_s": alone,
        "load": asdict(load),
        "token_s": wishes.token_s,
        "users_per_replica": most,
        "users": most * one.replicas,
        "users_asked": wishes.n_users,
        "replicas_needed": replicas_needed,
        "devices_needed": replicas_needed * one.devices,
    }
    if most:
        tokens = most / speed.token_s(most, load)  # per second and replica
        hours = one.devices / (tokens * 3600) * 1e6  # device hours per million
        found["tok_s_per_replica"] = tokens
        found["per_million"] = {
            "dollars": hours * hardware.price,
            "kwh": hours * hardware.watts / 1000,
        }
    return found


def train(
    subject: Subject, hardware: Hardware, wishes: Wishes, tokens: int | None
) -> dict[str, Any]:
    """The plan of training: `tokens` in rows of the context, or the paper's stages of a member."""
    if tokens is not None or subject.member is None:
        found: tuple[training.Stage, ...] = (
            training.Stage("train", tokens or 20 * subject.config.n_params, wishes.context),
        )
    else:
        found = training.stages(subject.member)
    cost = training.cost(subject.config, found, hardware, wishes.mfu)
    hours, tonnes = training.whole_family(hw.gpus("a100", 1), wishes.mfu)
    return {
        "model": subject.name,
        "parameters": subject.config.n_params,
        "hardware": asdict(hardware),
        "mfu": wishes.mfu,
        **asdict(cost),
        "family": {
            "a100_hours": hours,
            "tonnes_co2": tonnes,
            "paper_hours": training.PAPER_HOURS,
            "paper_tonnes": training.PAPER_TONNES,
        },
    }
