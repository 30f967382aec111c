"""Sampling in plain PyTorch: the meaning of the kernel in `runners.triton.sampling`.

Tokens are sorted by falling logit, the lower id first among equals; top-k, top-p and min-p keep a
beginning of that row; the token drawn is the first at which the weights exceed a random share of
what is kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """A float64 in [0, 1) for each pair [R] of int64 bits: SplitMix64's 53 highest bits."""
    with np.errstate(over="ignore"):
        state = _mixed(seed.cpu().numpy().view(np.uint64) + _STEP)
        bits = _mixed(state + (counter.cpu().numpy().view(np.uint64) + np.uint64(1)) * _STEP)
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def sample(
    logits: Tensor,
    raw: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    counter: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `runners.triton.sampling.sample`."""
    shares = uniform(seed, counter)
    ids, logprobs = [], []
    for r in range(len(logits)):
        is_lost = not raw[r].isfinite().all() or not logits[r].max().isfinite()
        token = -1
        if not is_lost:
            how = temperature[r], int(top_k[r]), top_p[r].double(), min_p[r]
            token = _drawn(logits[r].float(), *how, float(shares[r]))
        ids.append(token)
        logprobs.append(float("nan") if is_lost else raw[r].double().log_softmax(0)[token].item())
    return torch.tensor(ids, dtype=torch.int32), torch.tensor(logprobs)


def _drawn(
    x: Tensor, temperature: Tensor, top_k: int, top_p: Tensor, min_p: Tensor, share: float
) -> int:
    if temperature == 0:
        return int((x == x.max()).int().argmax())
    distance = (x - x.max()) / temperature
    weight = torch.where(distance >= -88, distance.exp(), 0)
    order = torch.sort(x, descending=True, stable=True).indices
    order = order[weight[order] > 0]
    if top_k:
        order = order[:top_k]
    kept = weight[order].double()
    before = kept.cumsum(0) - kept
    is_kept = weight[order] >= min_p
    if top_p < 1:
        is_kept &= before <= top_p * kept.sum()
    is_kept[0] = True
    n = int(is_kept.int().cumprod(0).sum())
    sums = kept[:n].cumsum(0)
    at = int(torch.searchsorted(sums, share * sums[-1], right=True))
    return int(order[min(at, n - 1)])
