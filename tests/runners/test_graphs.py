"""Recorded steps, on a device that only pretends to record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from codellama.runners import Batch
from codellama.runners.fused.graphs import BUCKETS, Graphs
from codellama.runners.fused.inputs import Paged, flat
from engine_bodies import Replays, runner_of

BLOCK = 4


def decoding(positions: list[int], tables: list[list[int]]) -> Batch:
    """One token of each sequence."""
    n = len(positions)
    return Batch(
        tokens=np.arange(10, 10 + n, dtype=np.int32),
        positions=np.array(positions, np.int32),
        seq_starts=np.arange(n + 1, dtype=np.int32),
        context_lens=np.array(positions, np.int32) + np.int32(1),
        block_tables=np.array(tables, np.int32),
        logit_rows=np.arange(n, dtype=np.int32),
    )


class Spy:
    """A step that remembers what it was given: [T, 5] instead of logits."""

    def __init__(self) -> None:
        self.tables: list[Tensor] = []

    def __call__(self, tokens: Tensor, positions: Tensor, where: Paged) -> Tensor:
        assert where.rows is not None
        self.tables.append(where.tables.clone())
        columns = (tokens, positions, where.slots, where.rows.sequence, where.rows.length)
        return torch.stack(columns, dim=1).float()


def graphs(spy: Spy, recorder: Replays) -> Graphs:
    return Graphs(
        recorder, spy, table_width=5, block_size=BLOCK, spare_slot=80, device=torch.device("cpu")
    )


def test_a_step_is_padded_to_its_bucket_with_tokens_that_see_nothing() -> None:
    spy, recorder = Spy(), Replays()
    recorded = graphs(spy, recorder)
    batch = decoding([0, 5, 11], [[7, -1, -1], [3, 2, -1], [1, 4, 9]])
    seen = recorded.run(flat(batch, BLOCK))
    assert seen.tolist() == [[10, 0, 28, 0, 1], [11, 5, 9, 1, 6], [12, 11, 39, 2, 12]]
    whole = recorded._recorded[4].logits
    assert whole[3].tolist() == [0, 0, 80, 0, 0]
    assert spy.tables[-1][:3, :3].tolist() == batch.block_tables.tolist()


def test_what_an_earlier_step_left_behind_is_not_seen() -> None:
    spy, recorder = Spy(), Replays()
    recorded = graphs(spy, recorder)
    recorded.run(flat(decoding([3, 3, 3, 3], [[0], [1], [2], [3]]), BLOCK))
    seen = recorded.run(flat(decoding([1, 2, 3], [[5], [6], [7]]), BLOCK))
    assert recorder.n_recorded == 1
    assert recorded._recorded[4].logits[3].tolist() == [0, 0, 80, 0, 0]
    assert seen[:, 2].tolist() == [21, 26, 31]


def test_each_bucket_is_recorded_once_and_replayed_ever_after() -> None:
    spy, recorder = Spy(), Replays()
    recorded = graphs(spy, recorder)
    for n in [1, 2, 3, 4, 1, 5, 8, 3, 1]:
        recorded.run(flat(decoding([0] * n, [[i] for i in range(n)]), BLOCK))
    assert (recorder.n_recorded, recorder.n_replayed) == (4, 9)


def test_recording_writes_to_no_slot_of_a_sequence() -> None:
    slots: list[Tensor] = []

    def body(tokens: Tensor, positions: Tensor, where: Paged) -> Tensor:
        slots.append(where.slots.clone())
        return tokens.float()

    recorded = Graphs(
        Replays(), body, table_width=5, block_size=BLOCK, spare_slot=80, device=torch.device("cpu")
    )
    recorded.run(flat(decoding([0], [[2]]), BLOCK))
    assert [s.tolist() for s in slots] == [[80], [8]]


@pytest.mark.parametrize(
    ("n_tokens", "rows", "expected"),
    [
        (1, [0], True),
        (3, [0, 1, 2], True),
        (3, [0, 2], False),
        (3, [], False),
        (3, [2, 1, 0], False),
        (BUCKETS[-1], list(range(BUCKETS[-1])), True),
        (BUCKETS[-1] + 1, list(range(BUCKETS[-1] + 1)), False),
    ],
)
def test_only_steps_that_decode_are_replayed(
    n_tokens: int, rows: list[int], expected: bool
) -> None:
    assert graphs(Spy(), Replays()).takes(n_tokens, np.array(rows, np.int32)) is expected


def test_a_recorded_model_gives_the_logits_of_one_that_is_not(hf_folder: Path) -> None:
    """Prompts, decoding, and guesses behind it, in one cache."""
    recorder = Replays()
    ours = runner_of("recorded", hf_folder, n_blocks=16, recorder=recorder)
    theirs = runner_of("torch", hf_folder, n_blocks=16)
    rng = np.random.default_rng(0)

    def step(counts: list[int], before: list[int], n_logits: list[int]) -> None:
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        rows = [r for s, n in enumerate(n_logits) for r in range(starts[s + 1] - n, starts[s + 1])]
        positions = [np.arange(b, b + n) for b, n in zip(before, counts, strict=True)]
        batch = Batch(
            tokens=rng.integers(3, 300, starts[-1]).astype(np.int32),
            positions=np.concatenate(positions).astype(np.int32),
            seq_starts=starts,
            context_lens=(np.array(before) + counts).astype(np.int32),
            block_tables=np.array([[5, 9, 2, 0], [7, 1, 3, 8], [6, 4, 15, 11]], np.int32),
            logit_rows=np.array(rows, np.int32),
        )
        np.testing.assert_allclose(ours.run(batch), theirs.run(batch), rtol=0, atol=1e-4)

    step([20, 3, 40], [0, 0, 0], [1, 0, 1])
    step([1, 1, 1], [20, 3, 40], [1, 1, 1])
    step([4, 1, 3], [21, 4, 41], [4, 1, 3])
    step([1, 30, 1], [25, 5, 44], [1, 1, 1])
    step([2, 1, 2], [26, 35, 45], [2, 1, 2])
    assert (recorder.n_recorded, recorder.n_replayed) == (2, 3)
