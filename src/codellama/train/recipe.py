"""Recipes: TOML files read strictly into frozen dataclasses.

A recipe is one file: the model, the corpus, and the stages that follow one another. Unknown keys,
wrong types and missing values are refused with the name of the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from codellama.errors import ConfigError

T = TypeVar("T")

MIN_ROW_LENGTH = 32  # shorter rows have no room for the markers and some text
KINDS = ("python", "function", "code", "text", "prose")  # documents a mix may name
CHAT = "chat"  # its conversations
OWN = "own"  # completions by a model itself
KEYS = "keys"  # and documents made on the way, in which something must be found again
DEVICES = ("cpu", "cuda")


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError when the file is absent or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def strict(cls: type[T], raw: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from a parsed table, every key checked.

    Values that already have the field's type pass; tables become nested dataclasses, integers
    become floats where a float is asked for; nothing else is converted.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # a dataclass, which its type does not say
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            guess = f"; did you mean `{near[0]}`?" if near else ""
            raise ConfigError(f"{where}: unknown key `{key}`{guess}")
        values[key] = _value(hints[key], value, f"{where}.{key}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: `{name}` is missing")
    return cls(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        inner = [arg for arg in args if arg is not types.NoneType]
        return None if value is None else _value(inner[0], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: {value!r} is not a list")
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} is not a table")
        return {k: _value(args[1], item, f"{where}.{k}") for k, item in value.items()}
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]  # a dataclass, which its type does not say
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} is not a table")
        return strict(kind, value, where)  # type: ignore[arg-type]  # a dataclass, which its type does not say
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind and not (kind is Path and isinstance(value, Path)):
        raise ConfigError(f"{where}: {value!r} is not of type {getattr(kind, '__name__', kind)}")
    return value


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """`[model]`: what `ModelConfig` needs besides the context and the rotary base."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    tie_embeddings: bool = True


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """`[stages.optimiser]`: Muon for the blocks' matrices, AdamW for the rest (or for all)."""

    kind: str = "muon"  # "muon" or "adamw"
    muon_lr: float = 0.02
    adamw_lr: float = 0.004
    weight_decay: float = 0.05
    clip: float = 1.0
    eps: float = 1e-10  # AdamW's


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`[stages.schedule]`: warm-up, constant, then a fall over the last `decay` share.

    The fall is a straight line or half a cosine. `decay` 1 is the paper's shape, a small one is
    warm-up, stable, decay.
    """

    kind: str = "linear"  # or "cosine"
    warmup_steps: int = 100
    start: float = 1.0  # factor of the learning rate after the warm-up
    end: float = 1.0  # factor reached at the end of the stage
    decay: float = 1.0  # share of the stage, at its end, over which the factor falls

    def factor(self, step: int, progress: float) -> float:
        """The learning rate's factor at a step, `progress` being the share of the stage done."""
        fall = min(max((progress - (1 - self.decay)) / self.decay, 0.0), 1.0) if self.decay else 0.0
        if self.kind == "cosine":
            fall = (1 - math.cos(math.pi * fall)) / 2
        level = self.start + (self.end - self.start) * fall
        return level * min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else level


@dataclass(frozen=True, kw_only=True)
class Lora:
    """`[lora]`: train low-rank adapters of a frozen model (see `codellama.train.lora`)."""

    rank: int = 16
    alpha: float = 32.0
    base: str = "float32"  # how the frozen weights are kept: "float32", or "nf4" in four bits

    def __post_init__(self) -> None:
        if self.rank <= 0:
            raise ConfigError(f"lora: a rank of {self.rank}")
        if self.base not in ("float32", "nf4"):
            raise ConfigError(f"lora: base {self.base!r} is not known; it is 'float32' or 'nf4'")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: what is read, how long, and with which optimiser."""

    name: str
    share: float  # of the time budget
    max_tokens: int
    row_length: int
    rows_per_step: int
    rope_theta: float
    infill_rate: float
    mix: dict[str, float]  # source -> share of the tokens
    rows_at_once: int | None = None  # rows of a step computed together; None: all of them
    line_rate: float = 0.0  # share of the infilled parts whose middle ends with a line
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run.

    Raises:
        ConfigError: from `read`, see `strict`; also when a stage contradicts itself.
    """

    name: str
    seed: int
    corpus: Path
    model: ModelSizes
    stages: tuple[Stage, ...]
    time_budget_min: float | None = None
    save_every_s: float = 300.0
    eval_every_s: float = 600.0
    n_threads: int | None = None
    compile: bool = False
    bf16: bool = False
    device: str = "cpu"  # or "cuda": one GPU for each process
    tensor_parallel: int = 1  # processes that share every matrix of the blocks
    context_parallel: int = 1  # processes that share every row
    patience_s: float = 600.0  # that processes wait for each other before they give up
    keep: int = 2  # checkpoints
    context: int = 0  # of the weights it starts from, where that is longer than its rows
    lora: Lora | None = None  # None: every weight is trained
    recompute: bool = False  # activations inside blocks, to save memory

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"{self.name}: a recipe needs at least one stage")
        for name in ("tensor_parallel", "context_parallel", "patience_s", "keep"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{self.name}: `{name}` must be above zero")
        if self.device not in DEVICES:
            raise ConfigError(f"{self.name}: device {self.device!r} is not one of "
                              + ", ".join(DEVICES))  # fmt: skip
        if self.time_budget_min is not None and self.time_budget_min <= 0:
            raise ConfigError(f"{self.name}: a time budget of {self.time_budget_min:g} minutes")
        if self.time_budget_min is not None and abs(sum(s.share for s in self.stages) - 1) > 1e-6:
            total = sum(s.share for s in self.stages)
            raise ConfigError(f"{self.name}: the stages' shares add up to {total:g}, not to 1")
        for stage in self.stages:
            if abs(sum(stage.mix.values()) - 1) > 1e-6:
                total = sum(stage.mix.values())
                raise ConfigError(f"{self.name}.{stage.name}: the mix adds up to {total:g}, not 1")
            for name in ("max_tokens", "row_length", "rows_per_step", "rope_theta"):
                if getattr(stage, name) <= 0:
                    raise ConfigError(f"{self.name}.{stage.name}: `{name}` must be above zero")
            if stage.row_length <= MIN_ROW_LENGTH:
                raise ConfigError(
                    f"{self.name}.{stage.name}: rows of {stage.row_length} are too short; "
                    f"they need more than {MIN_ROW_LENGTH}"
                )
            unknown = sorted(set(stage.mix) - {*KINDS, CHAT, OWN, KEYS})
            if unknown:
                raise ConfigError(
                    f"{self.name}.{stage.name}: the mix names {unknown[0]!r}; there are "
                    + ", ".join((*KINDS, CHAT, OWN, KEYS))
                )
            for name in ("infill_rate", "line_rate"):
                if not 0 <= (rate := getattr(stage, name)) <= 1:
                    raise ConfigError(f"{self.name}.{stage.name}: {name} {rate:g}")
            if stage.row_length % self.context_parallel:
                raise ConfigError(
                    f"{self.name}.{stage.name}: rows of {stage.row_length} cannot be shared evenly "
                    f"by {self.context_parallel} processes"
                )
            if self.lora is not None and stage.optimiser.kind != "adamw":
                raise ConfigError(
                    f"{self.name}.{stage.name}: adapters are trained by AdamW; "
                    'set optimiser = { kind = "adamw" }'
                )
            at_once = stage.rows_at_once
            if at_once is not None and (at_once <= 0 or stage.rows_per_step % at_once):
                raise ConfigError(
                    f"{self.name}.{stage.name}: {stage.rows_per_step} rows per step do not divide "
                    f"into {at_once} at once"
                )
            if stage.schedule.kind not in ("linear", "cosine"):
                raise ConfigError(
                    f"{self.name}.{stage.name}: schedule {stage.schedule.kind!r} is not known; "
                    "it is 'linear' or 'cosine'"
                )
            if stage.optimiser.kind not in ("muon", "adamw"):
                raise ConfigError(
                    f"{self.name}.{stage.name}: optimiser {stage.optimiser.kind!r} is not known; "
                    "it is 'muon' or 'adamw'"
                )

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
        """Reads a recipe; `overrides` are `key.path=TOML value`, list items by number."""
        raw = read_toml(path)
        for override in overrides:
            _override(raw, override)
        return strict(cls, raw, path.name)


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r} is not of the form key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *path, last = key.strip().split(".")
    node: Any = raw
    for part in path:
        try:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        except (ValueError, IndexError, AttributeError) as error:
            raise ConfigError(f"--set {text!r}: there is no `{part}` to set in") from error
    if not isinstance(node, dict):
        raise ConfigError(f"--set {text!r}: `{last}` cannot be set there")
    node[last] = parsed
