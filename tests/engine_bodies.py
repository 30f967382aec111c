"""Every body of the runner under the engine's laws, and what sameness means for each.

The native core promises a row the same bits whatever it shares a step with. PyTorch's products do
not, so log-probabilities of its bodies agree to 1e-4, while tokens, text and endings are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama import Completion, checkpoint
from codellama.runners import Runner, load_runner

TORCH_BODIES = ("torch", "fused", "recorded")
BODIES = ("native", *TORCH_BODIES)
"""`torch` is the model as it reads; `fused` and `recorded` are what runs on a GPU, on the CPU: with
plain kernels, and the latter with every decoding step replayed from a recording."""

EVERY = pytest.mark.parametrize("body", BODIES)


def with_bodies(cases: dict[str, Any], quick: Sequence[str]) -> Any:
    """A mark for (body, case): the native core in every case, the others quickly in a few."""
    return pytest.mark.parametrize(
        ("body", "case"),
        [
            pytest.param(
                body, case, id=f"{body} {name}",
                marks=() if body == "native" or name in quick else pytest.mark.slow,
            )
            for body in BODIES
            for name, case in cases.items()
        ],
    )  # fmt: skip


class Replays:
    """A recorder for a device that has none: it keeps the function and runs it again.

    As on a real device, inputs and the output are the same memory at each replay.
    """

    def __init__(self) -> None:
        self.n_recorded = 0
        self.n_replayed = 0

    def record(self, body: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.n_recorded += 1
        out = body()

        def replay() -> None:
            self.n_replayed += 1
            out.copy_(body())

        return replay, out


def runner_of(
    body: str, path: Path, *, n_blocks: int, block_size: int = 16, recorder: Any = None
) -> Runner:
    reader = checkpoint.open(path)
    if body in ("native", "torch"):
        return load_runner(
            reader,
            engine="cpu" if body == "native" else "torch",
            max_seq_len=256,
            n_blocks=n_blocks,
            block_size=block_size,
            n_threads=2 if body == "native" else None,
        )
    import torch

    from codellama.runners.fused.kernels import PlainKernels
    from codellama.runners.fused.runner import FusedRunner
    from codellama.runners.fused.weights import Kind, placed_all

    if body == "recorded" and recorder is None:
        recorder = Replays()
    device = torch.device("cpu")
    parameters = placed_all(reader.tensors(), Kind.PLAIN, torch.float32, device)
    return FusedRunner(
        reader.config, parameters, kernels=PlainKernels(), n_blocks=n_blocks,
        block_size=block_size, device=device, recorder=recorder, max_seq_len=256,
    )  # fmt: skip


def assert_same(found: Sequence[Completion], expected: Sequence[Completion], body: str) -> None:
    def said(completions: Sequence[Completion]) -> list[tuple[Any, ...]]:
        return [(c.token_ids, c.text, c.finish_reason) for c in completions]

    assert said(found) == said(expected)
    ours, theirs = ([c.logprobs for c in completions] for completions in (found, expected))
    if body == "native":
        assert ours == theirs
        return
    flat = [
        np.array([x for reply in all or [] for token in reply or () for x in _numbers(token)])
        for all in (ours, theirs)
    ]
    np.testing.assert_allclose(*flat, rtol=0, atol=1e-4)


def _numbers(token: Any) -> list[float]:
    """A token's log-probability, and its alternatives', whose order among equals may differ."""
    return [token.logprob, *(logprob for _, logprob in token.top)]
