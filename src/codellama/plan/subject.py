"""What is planned: a member of the family by name, or a checkpoint by its headers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.model.config import ModelConfig
from codellama.model.family import MEMBERS, Member, matches
from codellama.quant.formats import Format
from codellama.quant.mixes import MIXES, plan

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader

Formats = Mapping[str, Format]  # of every tensor, by our names


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model's sizes and how its weights are stored.

    `reader` is None where the family's facts are all there is. `format` names what the weights are
    stored as: that of most numbers.
    """

    name: str
    config: ModelConfig
    formats: Formats
    format: str
    member: Member | None = None
    reader: Reader | None = None

    def in_mix(self, mix: str) -> Formats:
        """The formats that `codellama quantize --format MIX` would give the tensors."""
        return plan(MIXES[mix], self.config.tensor_shapes(), self.config.n_layers).formats


def find(model: str) -> Subject:
    """The member of that name (`7B`, `13b-instruct`, `CodeLlama-34B-Python`, a hub name) or the
    checkpoint at that path, of which only headers are read.

    Raises:
        CheckpointError: there is neither.
    """
    member = member_of(model)
    if member is not None:
        shapes = member.config.tensor_shapes()
        return Subject(
            name=member.name,
            config=member.config,
            formats=dict.fromkeys(shapes, Format.BF16),
            format="bf16",  # as released
            member=member,
        )
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve

    path = Path(model)
    reader = checkpoint.open(path.parent if path.suffix == ".pth" else resolve(model))
    formats = {name: info.format for name, info in reader.infos.items()}
    return Subject(
        name=model,
        config=reader.config,
        formats=formats,
        format=_main_format(reader.config, formats),
        member=next(iter(matches(reader.config)), None),
        reader=reader,
    )


def member_of(name: str) -> Member | None:
    """The member that people mean by a name, or None."""
    short = name.lower().removeprefix("codellama/").removeprefix("codellama-").removesuffix("-hf")
    for member in MEMBERS:
        if short == member.name.lower().removeprefix("codellama-"):
            return member
    return None


def _main_format(config: ModelConfig, formats: Formats) -> str:
    shapes = config.tensor_shapes()
    counts: dict[Format, int] = {}
    for name, format in formats.items():
        counts[format] = counts.get(format, 0) + math.prod(shapes[name])
    return str(max(counts, key=lambda format: counts[format])).lower()
