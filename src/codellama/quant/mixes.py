"""Which format each matrix of a model gets when the model is made smaller.

A mix has a name that people know from files (`Q4_K_M`), one format for most matrices and better
ones where errors cost most. The rules are those of llama.cpp (`src/llama-quant.cpp` of
github.com/ggml-org/llama.cpp, for the `llama` architecture without an importance matrix), so a file
made here has the tensor types of one made there:

* The output matrix, or the embeddings where it is the same, is Q6_K in every mix of blocks below
  eight bits.
* Of the M mixes, `v_proj` and `down_proj` are Q6_K in the first and last eighth of the layers and
  in every third one between. In a model of 80 layers, whose value heads are shared by eight, the
  other `v_proj` of Q4_K are Q5_K.
* A row that is no multiple of 256 gets the nearest format in blocks of 32; one that is no multiple
  of 32 stays F16.
* Norms are F32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.quant.formats import Format

_SMALLER_BLOCKS = {Format.Q4_K: Format.Q5_0, Format.Q5_K: Format.Q5_1, Format.Q6_K: Format.Q8_0}
_SHARED_VALUES_LAYERS = 80


@dataclass(frozen=True, kw_only=True)
class Mix:
    """`name` is what users type; `file_type` is GGUF's number for it."""

    name: str
    file_type: int
    most: Format
    output: Format
    careful: Format | None = None  # of some v_proj and down_proj


def _mix(name: str, file_type: int, most: Format, careful: Format | None = None) -> Mix:
    small = most.is_quantised and most is not Format.Q8_0
    output = Format.Q6_K if small else most
    return Mix(name=name, file_type=file_type, most=most, output=output, careful=careful)


MIXES: Mapping[str, Mix] = {
    mix.name: mix
    for mix in (
        _mix("f32", 0, Format.F32),
        _mix("f16", 1, Format.F16),
        _mix("bf16", 32, Format.BF16),
        _mix("q8_0", 7, Format.Q8_0),
        _mix("q6_k", 18, Format.Q6_K),
        _mix("q5_k_m", 17, Format.Q5_K, Format.Q6_K),
        _mix("q5_1", 9, Format.Q5_1),
        _mix("q5_0", 8, Format.Q5_0),
        _mix("q4_k_m", 15, Format.Q4_K, Format.Q6_K),
        _mix("q4_1", 3, Format.Q4_1),
        _mix("q4_0", 2, Format.Q4_0),
    )
}
"""By name, largest first."""


@dataclass(frozen=True)
class Plan:
    """Each tensor's format, and a sentence for each rule that had to give way."""

    formats: Mapping[str, Format]
    notes: tuple[str, ...]


def plan(mix: Mix, shapes: Mapping[str, tuple[int, ...]], n_layers: int) -> Plan:
    """The formats of the tensors `shapes`, by our names.

    Raises:
        ConfigError: the model has fewer layers than a name says.
    """
    output = "lm_head.weight" if "lm_head.weight" in shapes else "embed_tokens.weight"
    formats: dict[str, Format] = {}
    gave_way: Counter[tuple[Format, Format, int]] = Counter()
    for name, shape in shapes.items():
        if len(shape) == 1:
            formats[name] = Format.F32
            continue
        wanted = mix.output if name == output else _of_matrix(mix, name, n_layers)
        found = fitting(wanted, shape[-1])
        if found is not wanted:
            gave_way[wanted, found, shape[-1]] += 1
        formats[name] = found
    notes = tuple(
        f"{n} {'matrix' if n == 1 else 'matrices'} with rows of {width} in {found} instead of "
        f"{wanted}, whose blocks have {wanted.block_size} numbers"
        for (wanted, found, width), n in gave_way.items()
    )
    return Plan(formats, notes)


def fitting(format: Format, n_cols: int) -> Format:
    """`format`, or the one that takes its place where a row is no whole number of its blocks."""
    if n_cols % format.block_size:
        format = _SMALLER_BLOCKS.get(format, Format.F16)
    return Format.F16 if n_cols % format.block_size else format


def _of_matrix(mix: Mix, name: str, n_layers: int) -> Format:
    is_value = name.endswith("self_attn.v_proj.weight")
    if mix.careful is not None and (is_value or name.endswith("mlp.down_proj.weight")):
        layer = int(name.split(".")[1])
        if layer >= n_layers:
            raise ConfigError(f"{name} is beyond the {n_layers} layers of the model")
        if _gets_more_bits(layer, n_layers):
            return mix.careful
    if is_value and n_layers == _SHARED_VALUES_LAYERS and mix.most is Format.Q4_K:
        return Format.Q5_K
    return mix.most


def _gets_more_bits(layer: int, n_layers: int) -> bool:
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
