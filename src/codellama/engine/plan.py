"""How much is kept in memory and how much is computed at a time, worked out once before loading."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codellama.engine.params import MAX_DRAFT_TOKENS
from codellama.errors import ConfigError, OutOfMemory
from codellama.model.config import ModelConfig

DRAFT_TOKENS = 15
Speculative = Literal["lookup", "off"]

_CACHE_SHARE = 0.8  # of the memory that the weights leave; the rest is for everything else


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """The engine's sizes.

    `max_seq_len` is the longest prompt and reply together, `max_num_seqs` how many are computed at
    the same time, `step_tokens` how many tokens one step computes at most, and `prompt_tokens` how
    many of them are prompts' unless a crowd waits (None: no bound). The cache has `n_blocks`
    blocks of `block_size` tokens; when they do not hold `max_num_seqs` full contexts, sequences
    that grow together that far take turns. `speculation` is "lookup" to guess ahead where it pays,
    up to `draft_tokens` in a step and sequence, or "off". `draft_cost` is what computing one guess
    adds to a step that one sequence has to itself, as a share of it: benchmarks/speculation.py
    measures it.

    Raises:
        ConfigError: a size is out of range, or one contradicts another.
    """

    max_seq_len: int
    n_blocks: int
    block_size: int = 16
    max_num_seqs: int = 16
    step_tokens: int = 512
    prompt_tokens: int | None = None
    share_prefixes: bool = True
    speculation: Speculative = "lookup"
    draft_tokens: int = DRAFT_TOKENS
    draft_cost: float = 0.35
    kv_bytes_per_token: int = 0  # for people; 0 where nobody said

    def __post_init__(self) -> None:
        for name in ("max_seq_len", "n_blocks", "block_size", "max_num_seqs", "step_tokens"):
            value = getattr(self, name)
            if type(value) is not int or not 0 < value < 1 << 31:
                raise ConfigError(f"`{name}` is {value!r}; expected a positive integer")
        self._check_speculation()
        if self.max_seq_len < 2:
            raise ConfigError("`max_seq_len` is 1, which leaves no room for a prompt and an answer")
        if self.step_tokens < self.max_num_seqs:
            raise ConfigError(
                f"`step_tokens` is {self.step_tokens}, and {self.max_num_seqs} sequences at a time "
                "need a token each"
            )
        if self.n_blocks * self.block_size < self.max_seq_len:
            raise ConfigError(
                f"{self.n_blocks} blocks of {self.block_size} tokens cannot hold one context of "
                f"{self.max_seq_len}"
            )

    def _check_speculation(self) -> None:
        if self.speculation not in ("lookup", "off"):
            raise ConfigError(f"`speculation` is {self.speculation!r}; expected 'lookup' or 'off'")
        if type(self.draft_tokens) is not int or not 0 < self.draft_tokens <= MAX_DRAFT_TOKENS:
            raise ConfigError(
                f"`draft_tokens` is {self.draft_tokens!r}; expected an integer from 1 to "
                f"{MAX_DRAFT_TOKENS}",
                hint="to guess nothing, turn speculation off",
            )
        if not 0 < self.draft_cost < math.inf:
            raise ConfigError(f"`draft_cost` is {self.draft_cost!r}; expected a number above 0")

    @property
    def cache_bytes(self) -> int:
        """Bytes of a full cache; 0 where the bytes of a token are not known."""
        return self.n_blocks * self.block_size * self.kv_bytes_per_token

    def describe(self) -> str:
        """The plan in one line, for people."""
        together = self.n_blocks * self.block_size / self.max_seq_len
        size = f", {size_in_words(self.cache_bytes)} when full" if self.cache_bytes else ""
        return (
            f"context {self.max_seq_len}; up to {self.max_num_seqs} replies at a time; cache for "
            f"{self.n_blocks * self.block_size} tokens ({together:.3g} contexts{size}); prompts "
            f"read {self.step_tokens} tokens at a time"
        )


def make_plan(
    config: ModelConfig,
    *,
    weight_bytes: int,
    kv_bytes_per_token: int,
    free_bytes: int | None,
    memory: str = "memory",
    max_seq_len: int | None = None,
    max_num_seqs: int = 16,
    block_size: int = 16,
    step_tokens: int = 512,
    prompt_tokens: int | None = None,
    share_prefixes: bool = True,
    speculation: Speculative = "lookup",
    draft_tokens: int = DRAFT_TOKENS,
) -> EnginePlan:
    """A cache for `max_num_seqs` full contexts, or for as many as memory holds.

    Args:
        config: sizes of the model, and its context where `max_seq_len` is None.
        weight_bytes: what the weights will take of `free_bytes`.
        kv_bytes_per_token: bytes of a token in the cache, a draft model's included.
        free_bytes: memory that can be used; None for no bound.
        memory: whose that is, for messages.

    Raises:
        OutOfMemory: not even one full context fits.
        ConfigError: a size is out of range.
    """
    length = config.max_seq_len if max_seq_len is None else max_seq_len
    for name, value in (("max_seq_len", length), ("max_num_seqs", max_num_seqs)):
        if type(value) is not int or not 0 < value < 1 << 31:
            raise ConfigError(f"`{name}` is {value!r}; expected a positive integer")
    one_context = -(-length // block_size)
    n_blocks = max_num_seqs * one_context
    if free_bytes is not None:
        budget = max(0, int(_CACHE_SHARE * (free_bytes - weight_bytes)))
        n_fitting = budget // (block_size * kv_bytes_per_token)
        if n_fitting < one_context:
            needed = size_in_words(one_context * block_size * kv_bytes_per_token)
            raise OutOfMemory(
                f"a context of {length} tokens needs {needed} of cache, and "
                f"{size_in_words(budget)} of {memory} can be used for it beside "
                f"{size_in_words(weight_bytes)} of weights",
                hint=f"use --max-seq-len {n_fitting * block_size}, the most that fits"
                if n_fitting
                else "close other programs, or use a smaller model or a quantised one",
            )
        n_blocks = min(n_blocks, n_fitting)
    return EnginePlan(
        max_seq_len=length,
        n_blocks=n_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        step_tokens=max(step_tokens, max_num_seqs),
        prompt_tokens=prompt_tokens,
        share_prefixes=share_prefixes,
        speculation=speculation,
        draft_tokens=draft_tokens,
        kv_bytes_per_token=kv_bytes_per_token,
    )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process can still use without swapping, as far as the system tells; else None.

    Linux's own estimate, and what the control group leaves where there is one.
    """
    found = []
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        found += _physical_memory()
    group = root / "sys/fs/cgroup"
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:  # "max", where there is no limit, is no number either
            left = int((group / limit).read_text()) - int((group / used).read_text())
            found.append(left + _file_pages((group / stat).read_text()))
        except (OSError, ValueError):
            continue
    return max(0, min(found)) if found else None


def _file_pages(stat: str) -> int:
    """Bytes of a control group that hold files' contents, which the system gives up on demand."""
    fields = (line.split() for line in stat.splitlines())
    return sum(int(f[1]) for f in fields if f[0] in ("active_file", "inactive_file"))


def _physical_memory() -> list[int]:
    try:
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):
        return []


def size_in_words(n_bytes: int) -> str:
    """A size for people, in powers of ten as files are sold."""
    size, units = float(n_bytes), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
