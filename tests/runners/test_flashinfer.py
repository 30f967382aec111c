"""What FlashInfer is told of a batch, and when it is used, by a stand-in that computes from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_inputs import BLOCK, config, filled_cache, normal
from torch import Tensor

from codellama.engine.batch import Share, flatten
from codellama.errors import ConfigError
from codellama.runners import KVFormat
from codellama.runners.fused import flashinfer, reference
from codellama.runners.fused.flashinfer import FlashInferPrompts, flashinfer_prompts
from codellama.runners.fused.inputs import flat, paged

CPU = torch.device("cpu")


class StandIn:
    """Plans and runs as FlashInfer's documentation says, one sequence after the other."""

    def __init__(self, workspace: Tensor | None = None, layout: str = "NHD") -> None:
        assert layout == "NHD"
        self.n_plans = 0

    def plan(self, starts, block_starts, blocks, last, *sizes, causal, **types) -> None:  # type: ignore[no-untyped-def]
        assert causal
        assert all(x.dtype == torch.int32 for x in (starts, block_starts, blocks, last))
        assert all(x.device.type == "cpu" for x in (starts, block_starts, last)), "it plans there"
        self.n_plans += 1
        self.known = starts.tolist(), block_starts.tolist(), blocks, last.tolist(), sizes

    def run(self, q: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
        starts, block_starts, blocks, last, sizes = self.known
        n_heads, n_kv, head_dim, page = sizes
        assert q.shape[1:] == (n_heads, head_dim)
        assert cache[0].shape[1:] == (page, n_kv, head_dim)
        outs = []
        for s, in_last in enumerate(last):
            own = blocks[block_starts[s] : block_starts[s + 1]].long()
            length = (len(own) - 1) * page + in_last
            k, v = (x[own].flatten(0, 1)[:length].transpose(0, 1)[None] for x in cache)
            part = q[starts[s] : starts[s + 1]]
            seen = torch.arange(length)
            mask = seen[None] <= seen[length - len(part) :, None]
            found = torch.nn.functional.scaled_dot_product_attention(
                part.transpose(0, 1)[None], k, v, attn_mask=mask, enable_gqa=n_heads != n_kv
            )
            outs.append(found[0].transpose(0, 1))
        return torch.cat(outs)


def test_prompts_among_others_are_what_the_reference_says() -> None:
    model = config(4, 2, 64)
    cache = filled_cache(model, 12, KVFormat.F32)
    shares = [
        Share([1], 20, [3, 5], 1),
        Share(list(range(9)), 16, [7, 1], 0),
        Share([1, 2], 0, [2], 1),
        Share(list(range(40)), 0, [0, 9, 4], 1),
    ]
    batch = flatten(shares)
    where = paged(batch, flat(batch, BLOCK), BLOCK, CPU)
    q = normal(len(batch.tokens), 4, 64, seed=3)
    ours, theirs = torch.zeros_like(q), torch.zeros_like(q)
    stand_in = StandIn()
    attend = FlashInferPrompts(stand_in, model)
    for _ in range(3):  # layers
        attend(q, cache, where, ours)
    assert stand_in.n_plans == 1
    assert where.tiles is not None
    reference.attend_tiles(q, cache, where.tiles, where.tables, BLOCK, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not ours[0].any(), "tokens that are attended for one by one"
    attend(q, cache, paged(batch, flat(batch, BLOCK), BLOCK, CPU), ours)
    assert stand_in.n_plans == 2


def found(monkeypatch: pytest.MonkeyPatch, module: Any, wanted: str = "", **changes: Any) -> Any:
    def import_module(name: str) -> Any:
        assert name == "flashinfer"
        if module is None:
            raise ModuleNotFoundError(name)
        return module

    monkeypatch.setattr(flashinfer, "import_module", import_module)
    monkeypatch.setattr(flashinfer, "_WORKSPACE_BYTES", 16)
    monkeypatch.setenv("CODELLAMA_ATTENTION", wanted)
    sizes = {"head_dim": 128, "kv_cache": KVFormat.BF16, "dtype": torch.bfloat16} | changes
    return flashinfer_prompts(
        config(2, 2, sizes["head_dim"]), sizes["kv_cache"], sizes["dtype"], CPU
    )


INSTALLED = SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=StandIn)


def test_it_is_used_where_it_is_installed_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(found(monkeypatch, INSTALLED), FlashInferPrompts)
    assert isinstance(found(monkeypatch, INSTALLED, "flashinfer"), FlashInferPrompts)
    assert found(monkeypatch, INSTALLED, "triton") is None
    assert found(monkeypatch, None) is None
    assert found(monkeypatch, INSTALLED, kv_cache=KVFormat.Q8_0) is None
    assert found(monkeypatch, INSTALLED, head_dim=48) is None
    assert found(monkeypatch, SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("module", "changes", "said"),
    [
        (None, {}, "it is not installed"),
        (SimpleNamespace(), {}, "has no attention over a paged cache"),
        (INSTALLED, {"head_dim": 48}, "no heads of 48 numbers"),
        (INSTALLED, {"kv_cache": KVFormat.FP8}, "not with FP8"),
        (INSTALLED, {"dtype": torch.float16}, "not with BF16"),
    ],
)
def test_asked_for_by_name_it_is_used_or_refused(
    monkeypatch: pytest.MonkeyPatch, module: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        found(monkeypatch, module, "flashinfer", **changes)
    with pytest.raises(ConfigError, match="'cutlass'; expected triton or flashinfer"):
        found(monkeypatch, INSTALLED, "cutlass")


def test_chunks_are_those_of_tiles() -> None:
    batch = flatten([Share(list(range(20)), 5, [3, 6], 1), Share([4], 0, [1], 1)])
    where = paged(batch, flat(batch, BLOCK), BLOCK, CPU)
    assert where.chunks is not None
    np.testing.assert_array_equal(where.chunks.tokens, np.arange(20))
    assert where.chunks.lengths.tolist() == [25]
    assert where.chunks.blocks.tolist() == [3, 6]
