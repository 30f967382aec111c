"""Every kernel compiles for the GPUs there are, and fits them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compiled.py"
_MOST_SPILLED = 256  # bytes of a thread


@pytest.mark.triton
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_kernels_compile_and_fit(capability: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; `make test-triton` does it")
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, SCRIPT, str(capability)], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    names = " ".join(one["kernel"] for one in found)
    for kernel in ("_one_row", "_several_rows", "_dequantise", "_attend", "_join", "_sample",
                   "_rotate_and_store", "_add_and_norm", "_silu_and_multiply"):  # fmt: skip
        assert f"{kernel}:" in names
    most = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}[capability]
    for one in found:
        assert one["shared"] <= most, one
        assert one["spilled"] <= _MOST_SPILLED, one
