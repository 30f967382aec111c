"""The native core equals the PyTorch model, and equals itself however a batch is composed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from native_models import SHAPES, Tensors, batch, config, dequantised, stored, tensors
from numpy.typing import NDArray

import codellama
from codellama import _native
from codellama.quant.formats import Format
from codellama.runners.cpu import CpuRunner

LEVELS = _native.simd_levels()
HERE = (Path(__file__).parent, Path(codellama.__file__).parents[1])
RNG = np.random.default_rng(5)
N_BLOCKS = 64


def runner(
    shape: str = "grouped",
    given: Tensors | None = None,
    simd: str = "auto",
    n_threads: int = 2,
    block_size: int = 16,
    n_layers: int = 2,
    kv_cache: Format = Format.F32,
) -> CpuRunner:
    cfg = config(shape, n_layers=n_layers)
    return CpuRunner(
        cfg,
        tensors(cfg) if given is None else given,
        n_blocks=N_BLOCKS,
        block_size=block_size,
        n_threads=n_threads,
        kv_cache=kv_cache,
        simd=simd,
    )


def ids(n: int, vocab: int = 33) -> NDArray[np.int32]:
    return RNG.integers(0, vocab, n).astype(np.int32)


def alone(shape: str, tokens: NDArray[np.int32], **settings: object) -> NDArray[np.float32]:
    """Logits of a sequence read at once, by a model of its own."""
    return runner(shape, **settings).run(batch([(tokens, 0, range(N_BLOCKS))]))  # type: ignore[arg-type]


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_pytorch_model(shape: str, simd: str) -> None:
    torch_runner = pytest.importorskip("codellama.runners.torch").TorchRunner
    cfg = config(shape)
    given = tensors(cfg)
    reference = torch_runner(cfg, given, n_blocks=N_BLOCKS, block_size=16)
    native = runner(shape, given, simd)
    blocks = RNG.permutation(N_BLOCKS).tolist()
    first, second = ids(150), ids(70)
    steps = [
        batch([(first[:100], 0, blocks[:10]), (second[:69], 0, blocks[10:15])]),
        batch([(second[69:], 69, blocks[10:15]), (first[100:], 100, blocks[:10])], [0, 7, 50]),
    ]
    for step in steps:
        np.testing.assert_allclose(native.run(step), reference.run(step), rtol=0, atol=1e-4)


@pytest.mark.parametrize("simd", LEVELS)
def test_positions_far_out_turn_as_in_the_pytorch_model(simd: str) -> None:
    torch_runner = pytest.importorskip("codellama.runners.torch").TorchRunner
    cfg = config("nano")
    given = tensors(cfg)
    runners = (torch_runner(cfg, given, n_blocks=4, block_size=16), runner("nano", given, simd))
    # 16 tokens are seen again and again at all earlier positions: a context without reading it.
    start = batch([(ids(16), 0, [0])])
    far = batch([(ids(17), 16000, [0] * 1000 + [2, 1])])
    reference, native = ([r.run(step) for step in (start, far)] for r in runners)
    np.testing.assert_allclose(native[1], reference[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_is_each_alone(shape: str, simd: str) -> None:
    lengths = (1, 40, 7, 90, 2)
    sequences = [ids(n) for n in lengths]
    blocks = iter(RNG.permutation(N_BLOCKS).tolist())
    tables = [[next(blocks) for _ in range(-(-n // 16))] for n in lengths]
    packed = runner(shape, simd=simd).run(
        batch([(s, 0, table) for s, table in zip(sequences, tables, strict=True)])
    )
    want = [alone(shape, s, simd=simd) for s in sequences]
    assert (packed == np.concatenate(want)).all()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_in_chunks_is_at_once(shape: str, simd: str) -> None:
    sequence, neighbour = ids(150), ids(150)
    model = runner(shape, simd=simd)
    rows, start = [], 0
    for n in (1, 1, 5, 16, 70, 1, 33, 23):  # with a neighbour that runs ahead of it
        chunk = (sequence[start : start + n], start, range(10))
        other = (neighbour[start : start + n], start, range(20, 30))
        rows.append(model.run(batch([other, chunk]))[n:])
        start += n
    assert (np.concatenate(rows) == alone(shape, sequence, simd=simd)).all()


@pytest.mark.parametrize("block_size", [1, 3, 16, 48, 100])
def test_blocks_of_any_size_in_any_order(block_size: int) -> None:
    sequence = ids(60)
    want = alone("grouped", sequence, block_size=block_size)
    scrambled = RNG.permutation(N_BLOCKS)[: -(-60 // block_size)].tolist()
    got = runner(block_size=block_size).run(batch([(sequence, 0, scrambled)]))
    assert (got == want).all()
    np.testing.assert_allclose(got, alone("grouped", sequence), rtol=0, atol=1e-5)


def test_a_block_that_is_used_again_forgets_nothing_of_its_own() -> None:
    model = runner()
    model.run(batch([(ids(64), 0, range(4))]))
    sequence = ids(20)
    assert (model.run(batch([(sequence, 0, [3, 1])])) == alone("grouped", sequence)).all()


def test_a_shared_prefix_is_read_by_both() -> None:
    prefix, ends = ids(32), (ids(10), ids(20))
    model = runner()
    model.run(batch([(prefix, 0, [0, 1])]))
    got = model.run(batch([(ends[0], 32, [0, 1, 2]), (ends[1], 32, [0, 1, 3, 4])]))
    want = [alone("grouped", np.concatenate([prefix, end]))[32:] for end in ends]
    assert (got == np.concatenate(want)).all()


@pytest.mark.parametrize("n_threads", [1, 3, 7])
def test_threads_change_nothing(n_threads: int) -> None:
    sequence = ids(100, 300)
    assert (
        alone("nano", sequence, n_threads=n_threads) == alone("nano", sequence, n_threads=2)
    ).all()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", [Format.F16, Format.BF16])
def test_a_format_is_its_numbers(format: Format, simd: str) -> None:
    given = tensors(config("nano"), format)
    for n in (1, 2, 40):
        sequence = ids(n, 300)
        want = alone("nano", sequence, given=dequantised(given), simd=simd)
        assert (alone("nano", sequence, given=given, simd=simd) == want).all()


def packed(shape: str, format: Format) -> Tensors:
    """Random weights near 0.06 whose matrices are all in a block format, vectors in F32."""
    rng = np.random.default_rng(11)
    size = 0.06 / float(stored(rng, format, (16, 256)).to_float32().std())
    return [
        (name, tensor if len(tensor.shape) == 1 else stored(rng, format, tensor.shape, size))  # type: ignore[arg-type]
        for name, tensor in tensors(config(shape))
    ]


@pytest.mark.parametrize("format", [format for format in Format if format.is_quantised])
def test_block_formats_are_near_their_numbers(format: Format) -> None:
    # Activations are rounded to 8 bits, which costs two or three hundredths of a logit's spread.
    given = packed("blocks", format)
    sequence = ids(40, 256)
    want = alone("blocks", sequence, given=dequantised(given))
    error = alone("blocks", sequence, given=given) - want
    assert error.std() < 0.04 * want.std()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize("format", [Format.Q4_0, Format.Q4_K, Format.Q6_K])
def test_packed_weights_do_not_see_the_batch(format: Format, simd: str) -> None:
    model = runner("blocks", given=packed("blocks", format), simd=simd)
    sequence = ids(30, 256)
    want = model.run(batch([(sequence, 0, [0, 1])]))
    crowd = batch([(ids(7, 256), 0, [9]), (sequence, 0, [4, 3]), (ids(20, 256), 0, [7, 8])])
    assert (model.run(crowd)[7:37] == want).all()
    for t in range(30):  # one at a time
        assert (model.run(batch([(sequence[t : t + 1], t, [5, 6])])) == want[t]).all()


@pytest.mark.parametrize("simd", LEVELS)
@pytest.mark.parametrize(("kv_cache", "bound"), [(Format.F16, 0.002), (Format.Q8_0, 0.02)])
def test_a_coarse_cache_is_near_the_fine_one(kv_cache: Format, bound: float, simd: str) -> None:
    for shape in ("grouped", "odd"):
        sequence = ids(150, 33)
        want = alone(shape, sequence, simd=simd)
        model = runner(shape, simd=simd, kv_cache=kv_cache, block_size=5)
        got = model.run(batch([(sequence, 0, range(30))]))
        assert 0 < np.abs(got - want).max() < bound * np.abs(want).max()
        # chunked, elsewhere, one token at a time: the same bits
        head = model.run(batch([(sequence[:70], 0, range(30, 60))]))
        assert (head == got[:70]).all()
        for t in range(70, 150):
            one = model.run(batch([(sequence[t : t + 1], t, range(30, 60))]))
            assert (one == got[t]).all()


def test_kernels_agree_with_each_other() -> None:
    sequence = ids(80, 300)
    first, *rest = (alone("nano", sequence, simd=simd) for simd in LEVELS)
    for other in rest:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-4)


def test_logits_of_the_rows_asked_for() -> None:
    sequence = ids(30)
    every = alone("grouped", sequence)
    rows = [29, 0, 0, 13]
    assert (runner().run(batch([(sequence, 0, [0, 1])], rows)) == every[rows]).all()
    assert runner().run(batch([(sequence, 0, [0, 1])], [])).shape == (0, 101)


def test_a_row_without_numbers_harms_nobody_else() -> None:
    cfg = config()
    given = tensors(cfg)
    name, embedding = given[0]
    broken = embedding.to_float32().copy()
    broken[32] = np.nan
    given[0] = (name, type(embedding).from_float32(broken))
    healthy = ids(40, 32)
    poisoned = healthy.copy()
    poisoned[20] = 32
    got = runner(given=given).run(
        batch([(healthy, 0, range(4)), (poisoned, 0, range(4, 8)), (healthy, 0, range(8, 12))])
    )
    want = alone("grouped", healthy)
    assert (got[:40] == want).all()
    assert (got[80:] == want).all()
    assert (got[40:60] == want[:20]).all()
    assert np.isnan(got[60:80]).all()


def test_two_callers_take_turns() -> None:
    model = runner("nano")
    sequences = [ids(50, 300) for _ in range(2)]
    wants = [alone("nano", s) for s in sequences]
    wrong: list[int] = []

    def call(i: int) -> None:
        step = batch([(sequences[i], 0, range(10 * i, 10 * i + 10))])
        wrong.extend(i for _ in range(20) if not (model.run(step) == wants[i]).all())

    threads = [threading.Thread(target=call, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


FORK = """
import os, sys
import numpy as np
from native_models import batch, config, tensors
from codellama.runners.cpu import CpuRunner
cfg = config("nano")
model = CpuRunner(cfg, tensors(cfg), n_blocks=8, block_size=16, n_threads=3)
step = batch([(range(100), 0, range(7))])
want = model.run(step)
child = os.fork()
if child == 0:
    same = (model.run(step) == want).all()
    del model
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_goes_on_alone() -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, HERE))},
        check=True,
        timeout=60,
        capture_output=True,
    )


def test_a_model_keeps_its_weights_alive() -> None:
    sequence = ids(10)
    cfg = config()
    model = CpuRunner(
        cfg,
        ((name, type(t)(t.format, t.shape, t.data.copy())) for name, t in tensors(cfg)),
        n_blocks=4,
        block_size=16,
    )
    junk = [np.full(1 << 16, 7, np.uint8) for _ in range(50)]
    got = model.run(batch([(sequence, 0, [0])]))
    assert (got == alone("grouped", sequence)).all()
    del junk


def test_untouched_blocks_cost_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    cfg = config()
    before = resident()
    model = CpuRunner(cfg, tensors(cfg), n_blocks=1 << 20, block_size=16)
    model.run(batch([(ids(20), 0, [1 << 19, 5])]))
    assert resident() - before < 64 << 20  # of 8 GB
