"""Kernels run on a GPU (`make test-gpu`) or in Triton's interpreter (`make test-triton`)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def floats_overflow_quietly() -> Iterator[None]:
    """As on a GPU, which the interpreter's NumPy would warn about."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("cpu", marks=pytest.mark.triton),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where kernels run. Whoever asks for it is skipped where Triton cannot run there."""
    pytest.importorskip("triton", reason="Triton is not installed; `make test-triton` does it")
    if request.param == "cpu" and not IS_INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1 is not set; `make test-triton` does it")
    if request.param == "cuda" and (IS_INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("there is no CUDA device")
    return torch.device(request.param)
