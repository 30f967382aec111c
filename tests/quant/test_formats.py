"""Block formats against the `gguf` package, and BF16 against torch."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from codellama.errors import CheckpointError
from codellama.quant import formats
from codellama.quant.formats import Format, Tensor, dequantise, n_bytes, quantise, row_bytes

HALVES = [Format.F16, Format.BF16]
BLOCKS = [Format.Q8_0, Format.Q4_0, Format.Q4_1, Format.Q5_0, Format.Q5_1]
EXACT = [Format.F32, *HALVES, *BLOCKS]  # rounded bit for bit as the gguf package does
SEARCHED = [Format.Q4_K, Format.Q5_K, Format.Q6_K]
READ_ONLY = [Format.Q2_K, Format.Q3_K]
FORMATS = [*EXACT, *SEARCHED, *READ_ONLY]


def theirs(format: Format) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[format.value]


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def sample(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers of many magnitudes, with zeros, exact halves and repeated extremes among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp(4 * rng.standard_normal(shape))
    x = np.where(rng.random(shape) < 0.2, np.rint(x) / 2, x)
    x = np.where(rng.random(shape) < 0.1, 0, x)
    return x.clip(-1000, 1000).astype(np.float32)


@pytest.mark.parametrize("format", Format)
def test_sizes_are_gguf_s(format: Format) -> None:
    assert format in FORMATS
    assert (format.block_size, format.block_bytes) == gguf.GGML_QUANT_SIZES[theirs(format)]
    assert row_bytes(format, 768) == 768 // format.block_size * format.block_bytes
    assert n_bytes(format, (1 << 40, 1 << 40)) > 1 << 78  # no overflow on the way to a refusal


@pytest.mark.parametrize("shape", [(32,), (1, 32), (7, 96), (3, 2, 64), (0, 32)])
@pytest.mark.parametrize("format", EXACT)
def test_quantise_and_dequantise_equal_gguf(format: Format, shape: tuple[int, ...]) -> None:
    x = sample(*shape, seed=len(shape))
    ours = quantise(format, x)
    assert ours.shape == (*shape[:-1], row_bytes(format, shape[-1]))
    if x.size:
        assert ours.tobytes() == gguf.quantize(x, theirs(format)).tobytes()
        assert same_bits(dequantise(format, ours), gguf.dequantize(ours, theirs(format)))
    else:
        assert dequantise(format, ours).shape == shape


@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
        elements=st.floats(-2000, 2000, width=32, allow_subnormal=False)
        | st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.5, 127.0, -127.0, 8.0, -8.0]),
    ),
    st.sampled_from(EXACT),
)
def test_rounding_equals_gguf(x: NDArray[np.float32], format: Format) -> None:
    # A block whose scale underflows has no defined quotients there (0 * infinity).
    tiny = np.abs(x) < 1e-30  # nor has the sign of a smallest number of zero
    assert quantise(format, np.where(tiny, 0, x)).tobytes() == (
        gguf.quantize(np.where(tiny, np.float32(0), x), theirs(format)).tobytes()
    )


@pytest.mark.parametrize(("format", "extreme"), [(Format.Q8_0, 127), (Format.Q4_0, -8)])
def test_halves_are_rounded_as_in_gguf(format: Format, extreme: float) -> None:
    """With a scale of exactly 1, so that the quotients are halves."""
    x = np.arange(-8, 8, 0.5, dtype=np.float32)[None].clip(-7.5, 7.5)
    x[0, 0] = extreme
    ours = quantise(format, x)
    assert ours.tobytes() == gguf.quantize(x, theirs(format)).tobytes()
    assert (dequantise(format, ours) == np.rint(x)).mean() < 0.9  # ties do not go to even


@pytest.mark.parametrize("format", HALVES)
def test_every_half_dequantises_as_in_gguf(format: Format) -> None:
    every = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    assert same_bits(dequantise(format, every), gguf.dequantize(every, theirs(format)))


def test_bf16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    bits[:6] = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x00000001, 0x7F800000, 0xFF800000]
    x = bits.view(np.float32)
    expected = torch.from_numpy(x).to(torch.bfloat16).view(torch.uint16).numpy()
    kept = np.isnan(x) | ~np.isinf(dequantise(Format.BF16, expected.view(np.uint8))) | np.isinf(x)
    ours = quantise(Format.BF16, x[kept]).view("<u2")
    nan = np.isnan(x[kept])
    assert (ours[~nan] == expected[kept][~nan]).all()
    assert np.isnan(dequantise(Format.BF16, ours[nan].view(np.uint8))).all()


@pytest.mark.parametrize(
    ("format", "x"),
    [
        (Format.F16, [65536.0]),
        (Format.BF16, [3.4e38]),
        (Format.Q8_0, [1e7] * 32),
        (Format.Q4_0, [1e7] * 32),
        (Format.Q8_0, [np.nan] * 32),
        (Format.Q4_0, [1.0] * 31 + [np.inf]),
        (Format.Q4_1, [-1e5] + [0.0] * 31),
        (Format.Q4_1, [1e38] * 31 + [-3.4e38]),
        (Format.Q5_0, [2e6] * 32),
        (Format.Q5_1, [3e6] + [0.0] * 31),
        (Format.Q5_1, [-np.inf] + [0.0] * 31),
    ],
)
def test_numbers_that_do_not_fit_are_refused(format: Format, x: list[float]) -> None:
    with pytest.raises(CheckpointError, match=f"stored as {format}"):
        quantise(format, np.array(x, np.float32))


@pytest.mark.parametrize("format", HALVES)
def test_infinities_and_nan_survive_halves(format: Format) -> None:
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    assert np.array_equal(dequantise(format, quantise(format, x)), x, equal_nan=True)


@pytest.mark.parametrize("format", BLOCKS)
def test_a_block_too_small_for_its_scale_becomes_zeros(format: Format) -> None:
    x = np.tile(np.array([1e-44, 0], np.float32), (1, 16))
    assert not dequantise(format, quantise(format, x)).any()


@pytest.mark.parametrize("format", READ_ONLY)
def test_a_format_that_is_only_read_is_named(format: Format) -> None:
    with pytest.raises(CheckpointError, match=f"{format} is a format that is read and not written"):
        quantise(format, np.zeros(256, np.float32))


@pytest.mark.parametrize("format", BLOCKS)
def test_rows_are_whole_blocks(format: Format) -> None:
    with pytest.raises(CheckpointError, match="33"):
        quantise(format, np.zeros((2, 33), np.float32))
    with pytest.raises(CheckpointError, match="bytes are not a row"):
        dequantise(format, np.zeros(format.block_bytes + 1, np.uint8))


@pytest.mark.parametrize("old", EXACT)
@pytest.mark.parametrize("new", EXACT)
def test_a_tensor_changes_format_in_groups_of_rows(
    old: Format, new: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = Tensor.from_float32(sample(37, 64), old)
    numbers = tensor.to_float32()
    assert numbers.shape == (37, 64)
    whole = tensor.data if new is old else quantise(new, numbers).reshape(-1)
    monkeypatch.setattr(formats, "_CHUNK", 160)
    changed = tensor.to(new)
    assert (changed.format, changed.shape) == (new, (37, 64))
    assert (changed.data == whole).all()
    assert not changed.data.flags.writeable
    assert same_bits(dequantise(old, tensor.data).reshape(37, 64), numbers)


def test_a_tensor_does_not_follow_its_source() -> None:
    x = np.ones(4, np.float32)
    tensor = Tensor.from_float32(x)
    x[:] = 2
    assert tensor.to_float32().tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        tensor.to_float32()[0] = 3


def test_unaligned_bytes_become_aligned_numbers() -> None:
    room = np.zeros(4 * 8 + 1, np.uint8)
    assert dequantise(Format.F32, room[1:]).flags.aligned
    assert dequantise(Format.BF16, room[1:]).shape == (16,)


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 3), 23), ((2, 3), 25), ((), 5), ((-1, 4), 16), ((3,), 0)]
)
def test_a_tensor_s_bytes_must_fit_its_shape(shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(CheckpointError, match="tensor"):
        Tensor(Format.F32, shape, np.zeros(size, np.uint8))
