"""Products of few rows, and dequantising, as their plain references, in every kind of weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_inputs import TOLERANCE, close, normal, there
from kernel_weights import CPU, blocks_of, weight_of

from codellama.quant.formats import Format, Tensor, n_bytes
from codellama.quant.planes import LAYOUTS
from codellama.runners.fused import reference
from codellama.runners.fused.kernels import Norm, PlainKernels, Stream
from codellama.runners.fused.weights import (
    Dense,
    Fp8,
    Kind,
    Weight,
    int4_blocks,
    int8_blocks,
    joined,
    placed,
    rounded,
)

KINDS = [*LAYOUTS, Kind.PLAIN, Kind.INT8, Kind.INT4, Kind.FP8]


def check(
    device: torch.device, weight: Weight, n_tokens: int, dtype: torch.dtype, n_cols: int
) -> None:
    """Everything the layers ask of a weight, by kernels and by the reference."""
    from codellama.runners.triton.kernels import TritonKernels

    ours, theirs = TritonKernels(), PlainKernels()
    moved = tuple(there(matrix, device) for matrix in weight)
    x = normal(n_tokens, n_cols, dtype=dtype)
    norm = Norm(1 + normal(n_cols, seed=1, dtype=dtype) / 8, 1e-5)
    their_norm, our_norm = norm, there(norm, device)
    # Products of many numbers round at their largest, not at each one's own size.
    near = {"rtol": TOLERANCE[dtype]["rtol"], "atol": TOLERANCE[dtype]["atol"] * n_cols**0.5}

    def stream(where: torch.device) -> Stream:
        return Stream(x.to(where, copy=True))

    close(ours.product(x.to(device), moved), theirs.product(x, weight), **near)
    got = ours.project(stream(device), our_norm, moved)
    close(got, theirs.project(stream(CPU), their_norm, weight), **near)
    got = ours.gate(stream(device), our_norm, moved)
    expected = theirs.gate(stream(CPU), their_norm, weight)
    close(got, expected, rtol=near["rtol"], atol=near["atol"] * float(expected.abs().max() + 1))
    n_out = sum(matrix.n_rows for matrix in weight)
    base = normal(n_tokens, n_out, seed=9, dtype=dtype)
    a, b = Stream(base.to(device, copy=True)), Stream(base.clone())
    ours.add(a, x.to(device), moved)
    theirs.add(b, x, weight)
    gain = torch.ones(n_out, dtype=dtype)
    ours.norm(a, Norm(gain.to(device), 1e-5))
    theirs.norm(b, Norm(gain, 1e-5))
    close(a.x, b.x, **near)


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_few_rows(device: torch.device, kind: str, n_tokens: int) -> None:
    check(device, weight_of(kind, 38, 512, torch.float32), n_tokens, torch.float32, 512)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K", "plain", "int4", "fp8"])
@pytest.mark.parametrize("n_tokens", [16, 17, 65])
def test_more_rows(device: torch.device, kind: str, n_tokens: int) -> None:
    check(device, weight_of(kind, 34, 256, torch.float32), n_tokens, torch.float32, 256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("kind", ["Q4_K", "plain", "int8", "fp8"])
def test_half_precision(device: torch.device, kind: str, n_tokens: int, dtype: torch.dtype) -> None:
    check(device, weight_of(kind, 36, 256, dtype), n_tokens, dtype, 256)


@pytest.mark.parametrize("n_cols", [32, 96, 160, 1376])
@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "plain", "int4"])
def test_rows_that_are_no_power_of_two(device: torch.device, kind: str, n_cols: int) -> None:
    for n_tokens in (1, 2):
        weight = weight_of(kind, 6, n_cols, torch.float32)
        check(device, weight, n_tokens, torch.float32, n_cols)


@pytest.mark.parametrize("n_tokens", [1, 4, 70])
def test_parts_of_several_kinds(device: torch.device, n_tokens: int) -> None:
    parts = [blocks_of(Format.Q4_K, 16, 256), blocks_of(Format.Q4_K, 8, 256)]
    weight = joined([*parts, blocks_of(Format.Q6_K, 8, 256)])
    assert [matrix.n_rows for matrix in weight] == [24, 8]
    check(device, weight, n_tokens, torch.float32, 256)


@pytest.mark.parametrize("kind", [*LAYOUTS, Kind.INT8, Kind.INT4])
def test_dequantised(device: torch.device, kind: str) -> None:
    from codellama.runners.triton.blocks import dequantise

    (matrix,) = weight_of(kind, 7, 512, torch.float32)
    out = torch.empty(7, 512, device=device)
    dequantise(there(matrix, device), out)
    close(out, reference.numbers(matrix), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("format", list(LAYOUTS))
def test_the_reference_has_the_numbers_of_the_blocks(format: Format) -> None:
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 100, n_bytes(format, (3, 512)), np.uint8)
    tensor = Tensor(format, (3, 512), raw)
    matrix = placed(tensor, Kind.STORED, torch.float32, CPU)
    np.testing.assert_array_equal(reference.numbers(matrix).numpy(), tensor.to_float32())


def test_rounding_to_few_bits_loses_what_it_must() -> None:
    x = normal(64, 1024) / 30
    for rounds, most in ((int8_blocks, 0.008), (int4_blocks, 0.13)):
        error = (reference.numbers(rounds(x)) - x).norm() / x.norm()
        assert error < most
    fp8 = reference.numbers(rounded(x, Kind.FP8, torch.float32))
    assert (fp8 - x).norm() / x.norm() < 0.03
    zeros = torch.zeros(2, 128)
    for kind in Kind:
        if kind is not Kind.STORED:
            assert not reference.numbers(rounded(zeros, kind, torch.float32)).any()


def test_int8_is_q8_0() -> None:
    x = normal(5, 96)
    stored = Tensor.from_float32(x.numpy(), Format.Q8_0)
    ours = reference.numbers(int8_blocks(x))
    step = x.abs().max() / 127
    assert (ours - torch.from_numpy(stored.to_float32())).abs().max() < 1.01 * step


def test_shapes_that_8_bit_products_refuse(device: torch.device) -> None:
    from codellama.runners.triton.kernels import fits_matrix_units

    for shape, fits in (((32, 64), True), ((33, 64), False), ((32, 72), False)):
        matrix = rounded(torch.zeros(shape), Kind.FP8, torch.float32)
        assert isinstance(matrix, Fp8)
        assert fits_matrix_units(matrix) is fits


def test_a_matrix_in_plain_numbers_is_a_linear_layer() -> None:
    x, w = normal(3, 64), normal(5, 64, seed=2)
    got = PlainKernels().product(x, joined([Dense(w[:2]), Dense(w[2:])]))
    torch.testing.assert_close(got, F.linear(x, w))
