"""Which tensor gets which format. That the types are llama.cpp's is held against it elsewhere."""

from __future__ import annotations

import pytest

from checkpoints_tiny import tiny_config
from codellama.errors import ConfigError
from codellama.quant.formats import Format, row_bytes
from codellama.quant.mixes import MIXES, Plan, fitting, plan

WIDE = {"dim": 256, "n_heads": 4, "n_kv_heads": 4, "head_dim": 64, "ffn_dim": 512}


def planned(name: str, **changes: object) -> Plan:
    config = tiny_config(**{**WIDE, **changes})
    return plan(MIXES[name], config.tensor_shapes(), config.n_layers)


@pytest.mark.parametrize("name", MIXES)
def test_every_tensor_gets_a_format_its_rows_fit(name: str) -> None:
    for changes in ({}, {"dim": 192, "ffn_dim": 544}, {"ffn_dim": 100}, {"tie_embeddings": True}):
        config = tiny_config(**{**WIDE, **changes})
        formats = planned(name, **changes).formats
        assert list(formats) == list(config.tensor_shapes())
        for key, shape in config.tensor_shapes().items():
            row_bytes(formats[key], shape[-1])
            assert (formats[key] is Format.F32) == (len(shape) == 1 or name == "f32")


@pytest.mark.parametrize("name", ["q4_k_m", "q4_0", "q4_1", "q5_0", "q5_1", "q5_k_m", "q6_k"])
def test_the_output_is_better_than_the_rest(name: str) -> None:
    formats = planned(name).formats
    assert formats["lm_head.weight"] is Format.Q6_K
    assert formats["embed_tokens.weight"] is MIXES[name].most
    assert planned(name, tie_embeddings=True).formats["embed_tokens.weight"] is Format.Q6_K
    assert planned(name, dim=192).formats["lm_head.weight"] is Format.Q8_0


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0"])
def test_mixes_of_one_format(name: str) -> None:
    formats = planned(name).formats
    assert set(formats.values()) == {Format.F32, MIXES[name].most}


def careful_layers(n_layers: int) -> list[int]:
    """Of Q4_K_M: those whose v_proj and down_proj are Q6_K."""
    formats = planned("q4_k_m", n_layers=n_layers).formats
    of = {
        kind: [i for i in range(n_layers) if formats[f"layers.{i}.{kind}.weight"] is Format.Q6_K]
        for kind in ("self_attn.v_proj", "mlp.down_proj", "mlp.up_proj", "self_attn.k_proj")
    }
    assert of["self_attn.v_proj"] == of["mlp.down_proj"]
    assert of["mlp.up_proj"] == of["self_attn.k_proj"] == []
    return of["mlp.down_proj"]


def test_the_first_the_last_and_every_third_layer() -> None:
    """Code Llama 7B's and 13B's, as in the files people have."""
    assert careful_layers(32) == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert careful_layers(1) == [0]
    assert careful_layers(3) == [2]
    assert len(careful_layers(40)) == 20


def test_shared_value_heads() -> None:
    formats = planned("q4_k_m", n_layers=80).formats
    values = [formats[f"layers.{i}.self_attn.v_proj.weight"] for i in range(80)]
    assert set(values) == {Format.Q5_K, Format.Q6_K}
    assert formats["layers.11.self_attn.k_proj.weight"] is Format.Q4_K


def test_what_gives_way_is_said() -> None:
    found = planned("q4_k_m", dim=192, n_layers=1)
    assert found.formats["layers.0.mlp.up_proj.weight"] is Format.Q5_0
    assert found.formats["layers.0.mlp.down_proj.weight"] is Format.Q6_K
    assert found.notes[0].startswith("5 matrices with rows of 192 in Q5_0 instead of Q4_K")
    assert "2 matrices with rows of 192 in Q8_0 instead of Q6_K" in found.notes[1]
    assert planned("q4_k_m").notes == ()


@pytest.mark.parametrize(
    ("format", "n_cols", "expected"),
    [
        (Format.Q4_K, 512, Format.Q4_K),
        (Format.Q4_K, 288, Format.Q5_0),
        (Format.Q5_K, 288, Format.Q5_1),
        (Format.Q6_K, 288, Format.Q8_0),
        (Format.Q6_K, 100, Format.F16),
        (Format.Q4_0, 100, Format.F16),
        (Format.F32, 7, Format.F32),
    ],
)
def test_the_nearest_format_that_fits(format: Format, n_cols: int, expected: Format) -> None:
    assert fitting(format, n_cols) is expected


def test_a_layer_beyond_the_model_is_refused() -> None:
    shapes = {"layers.7.mlp.down_proj.weight": (8, 256)}
    with pytest.raises(ConfigError, match="beyond the 2 layers"):
        plan(MIXES["q4_k_m"], shapes, 2)
