"""Compiles every kernel for a GPU that is not here, as the engine launches it.

    python tests/kernels/compiled.py CAPABILITY     such as 90; a line of JSON for each kernel

Triton takes a GPU's generation from its driver, and one is pretended; what is launched is compiled
down to the machine's code and not run. That says whether a kernel compiles, how much shared memory
it takes and how much its registers spill, and nothing about speed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from kernel_inputs import BLOCK, config, filled_cache, tables
from kernel_weights import weight_of
from triton.backends.compiler import GPUTarget

from codellama.model.transformer import rope_angles
from codellama.runners import KVFormat
from codellama.runners.fused.inputs import TILE, Rows, Tiles
from codellama.runners.fused.kernels import Norm, Stream
from codellama.runners.triton import attention_rows, attention_tiles, launch, norm, rope, sampling
from codellama.runners.triton.kernels import TritonKernels

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
"""Of one program, by generation."""

KINDS = ("plain", "fp8", "int8", "int4", "Q4_K", "Q5_0", "Q6_K")
K = 4096


class Driver:
    """A driver of one GPU."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(capability: int) -> Iterator[str]:
    """Launches everything, and says before each what it is."""
    kernels = TritonKernels()
    for dtype in (torch.bfloat16, torch.float32):
        for kind in KINDS if dtype == torch.bfloat16 else ("plain", "Q4_K"):
            if kind == "fp8" and capability < 89:
                continue
            weight = weight_of(kind, 64, K, dtype)
            gain = Norm(torch.ones(K, dtype=dtype), 1e-5)
            for n in (1, 8, 64) if dtype == torch.bfloat16 else (1, 8):
                x = torch.ones(n, K, dtype=dtype)
                yield f"{kind} {dtype}, {n} rows"
                kernels.product(x, weight)
                kernels.project(Stream(x), gain, weight)
                kernels.gate(Stream(x), gain, weight)
                kernels.add(Stream(torch.ones(n, 64, dtype=dtype)), x, weight)
            yield f"{kind} {dtype}, many rows"
            kernels.product(torch.ones(65, K, dtype=dtype), weight)
        formats = [f for f in KVFormat if f is not KVFormat.FP8 or capability >= 89]
        for n_heads, n_kv in ((4, 4), (8, 1)):
            for format in formats if dtype == torch.bfloat16 else [KVFormat.F32]:
                yield f"attention, {n_heads} heads over {n_kv}, {dtype}, cache in {format}"
                attend(n_heads, n_kv, format, dtype)
        x = torch.ones(3, K, dtype=dtype)
        yield f"norm and silu, {dtype}"
        norm.add_and_norm(x, x, x[0], 1e-5)
        norm.add_and_norm(x, None, x[0], 1e-5)
        kernels.gate(Stream(x), Norm(x[0], 1e-5), weight_of("plain", 4096, K, dtype))
    yield "sampling"
    rows, zeros = torch.zeros(2, 32016), torch.zeros(2)
    sampling.sample(
        rows, rows, temperature=zeros, top_k=zeros.int(), top_p=zeros, min_p=zeros,
        seed=zeros.long(), counter=zeros.long(),
    )  # fmt: skip


def attend(n_heads: int, n_kv: int, format: KVFormat, dtype: torch.dtype) -> None:
    model = config(n_heads, n_kv, 128)
    cache, where = filled_cache(model, 4, format), tables([4], 4)
    three = torch.zeros(3, dtype=torch.int32)
    qkv = torch.ones(3, (n_heads + 2 * n_kv) * 128, dtype=dtype)
    q = rope.rotate_and_store(qkv, *rope_angles(three, 128, 1e6), three, cache, n_heads)
    for splits in (1, 8):
        attention_rows.attend_rows(
            q, cache, Rows(three, three, three), where, BLOCK, q, splits=splits
        )
    tiles = Tiles(three, three, three, three, TILE)
    attention_tiles.attend_tiles(q, cache, tiles, where, BLOCK, q)


def resources(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and the bytes of it that did not fit them, by NVIDIA's own tool."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    (found,) = re.findall(r"REG:(\d+) STACK:(\d+)", done.stdout)
    return int(found[0]), int(found[1])


def main() -> None:
    capability = int(sys.argv[1])
    launch._SHARED_BYTES = SHARED_BYTES[capability]
    triton.runtime.driver.set_active(Driver(capability))
    compile_only = triton.runtime.jit.JITFunction.run
    made: dict[str, tuple[str, Any]] = {}
    what = ""

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = compile_only(self, *args, grid=grid, warmup=True, **kwargs)
        made.setdefault(kernel.hash, (f"{self.__name__}: {what}", kernel))

    triton.runtime.jit.JITFunction.run = run
    for what in launches(capability):  # noqa: B007  # `run` reads it
        pass
    with tempfile.TemporaryDirectory() as folder:
        for name, kernel in made.values():
            registers, spilled = resources(kernel.asm["cubin"], Path(folder))
            facts = {
                "kernel": name, "shared": kernel.metadata.shared, "registers": registers,
                "spilled": spilled, "stages": kernel.metadata.num_stages,
            }  # fmt: skip
            sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
