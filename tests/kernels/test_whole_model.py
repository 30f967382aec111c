"""A tiny model by the kernels, wired as they are on a GPU, as by what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from codellama import checkpoint
from codellama.engine.batch import Share, flatten
from codellama.runners import KVFormat
from codellama.runners.fused.graphs import CudaRecorder, Recorder
from codellama.runners.fused.kernels import Kernels, PlainKernels
from codellama.runners.fused.runner import FusedRunner
from codellama.runners.fused.weights import Kind, placed_all
from codellama.runners.sampling import to_array
from engine_bodies import Replays


@pytest.mark.parametrize(
    ("kind", "format", "near"),
    [
        (Kind.PLAIN, KVFormat.F32, 1e-4),
        (Kind.INT4, KVFormat.Q8_0, 0.03),  # a number in 8 bits may be a step off
        (Kind.INT8, KVFormat.F16, 0.01),
    ],
)
def test_prompts_decoding_and_guesses(
    device: torch.device, hf_folder: Path, kind: Kind, format: KVFormat, near: float
) -> None:
    from codellama.runners.triton.kernels import TritonKernels

    reader = checkpoint.open(hf_folder)

    def runner(where: torch.device, kernels: Kernels, recorder: Recorder | None) -> FusedRunner:
        return FusedRunner(
            reader.config, placed_all(reader.tensors(), kind, torch.float32, where),
            kernels=kernels, n_blocks=24, block_size=16, device=where, recorder=recorder,
            kv_cache=format, max_seq_len=256,
        )  # fmt: skip

    recorder = CudaRecorder() if device.type == "cuda" else Replays()
    ours = runner(device, TritonKernels(), recorder)
    theirs = runner(torch.device("cpu"), PlainKernels(), None)
    rng = np.random.default_rng(0)
    tables, lengths = [[5, 9, 2], [7, 1], list(range(10, 22))], [0, 0, 0]
    for counts, n_logits in (
        ([20, 3, 150], [1, 0, 1]),
        ([1, 12, 1], [1, 1, 1]),
        ([1, 1, 1], [1, 1, 1]),
        ([4, 1, 2], [4, 1, 2]),
        ([1, 1, 1], [1, 1, 1]),
    ):
        shares = [
            Share(rng.integers(3, 300, n).tolist(), first, table, logits)
            for n, first, table, logits in zip(counts, lengths, tables, n_logits, strict=True)
        ]
        lengths = [first + n for first, n in zip(lengths, counts, strict=True)]
        got, expected = (to_array(each.run(flatten(shares))) for each in (ours, theirs))
        assert np.abs(got - expected).max() < near * expected.std()
