"""How long steps take: a roofline, with the share of it that engines reach.

A step reads every weight once and each sequence's keys and values, and multiplies every weight by
every token. For our CPU engine three times are added: of the weights, which wait for memory and are
taken apart, two things that overlap in part; of the products; and of the threads, which meet
several times in each layer (docs/scale.md: from 4 M parameters to 7B, in every format, within a
quarter of what was measured). A GPU does both at once: the slower of the two counts, and what GPUs
tell each other after attention and feed-forward is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from codellama.model.config import ModelConfig
from codellama.plan.hardware import Hardware

_CPU_READ_PER_OP = 0.065  # bytes of weights a core unpacks while it could do an int8 operation
_CPU_READ_PER_FLOP = 0.4  # the same of weights that are not in blocks, for a float32 operation
_FP32_SHARE = 0.25  # of the float32 peak, in products of weights that are not in blocks
_CPU_MEETINGS_S = 3e-6  # that the threads of a CPU need in a layer to hand over to each other
_MESSAGE_S = 10e-6  # of an all-reduce, beside its bytes
_MESSAGES_PER_LAYER = 2
_MOST_USERS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a user asks: prompt and reply in tokens."""

    prompt: int = 1000
    reply: int = 200


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One replica of a model on some devices.

    Args:
        read_bytes: weights that a token reads.
        kv_bytes: keys and values of one position.
        is_quantised: whether weights are in blocks, which decides the CPU's arithmetic.
        tensor_parallel: devices that share each layer.
        pipeline_parallel: groups of them that follow one another.
    """

    config: ModelConfig
    hardware: Hardware
    read_bytes: int
    kv_bytes: int
    is_quantised: bool
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def macs(self) -> int:
        """Multiplications of a token with weights."""
        c = self.config
        table = 0 if c.tie_embeddings else c.vocab_size * c.dim
        return c.n_params - table

    @property
    def _reading(self) -> float:
        """Bytes per second of one stage of the replica."""
        h = self.hardware
        if h.kind == "cpu":
            blocks, floats = _CPU_READ_PER_OP * h.peak, _CPU_READ_PER_FLOP * h.peak_fp32
            unpacking = blocks if self.is_quantised else floats
            return 1 / math.hypot(1 / (h.read_share * h.bandwidth), 1 / unpacking)
        return h.read_share * h.bandwidth * self.tensor_parallel

    @property
    def _computing(self) -> float:
        """Operations per second of one stage of the replica."""
        h = self.hardware
        if h.kind == "cpu" and not self.is_quantised:
            return _FP32_SHARE * h.peak_fp32
        return h.peak_share * h.peak * self.tensor_parallel

    def _messages(self, n_tokens: int) -> float:
        if self.tensor_parallel == 1:
            return 0.0
        c, h = self.config, self.hardware
        each = 2 * (1 - 1 / self.tensor_parallel) * 2 * c.dim * n_tokens / h.link
        return _MESSAGES_PER_LAYER * c.n_layers * (_MESSAGE_S + each)

    def step_s(self, n_sequences: int, context: int) -> float:
        """Seconds of a decoding step of sequences that have `context` tokens each."""
        reading = (self.read_bytes + n_sequences * context * self.kv_bytes) / self._reading
        computing = 2 * self.macs * n_sequences / self._computing
        if self.hardware.kind == "cpu":
            return reading + computing + _CPU_MEETINGS_S * self.config.n_layers
        return max(reading, computing) + self._messages(n_sequences)

    def decode_tok_s(self, context: int, n_sequences: int = 1) -> float:
        """Tokens per second of all sequences together."""
        return n_sequences / self.step_s(n_sequences, context)

    def prefill_s(self, n_tokens: int) -> float:
        """Seconds from a prompt to the first token, alone on the replica."""
        c = self.config
        attention = 2 * c.n_layers * c.n_heads * c.head_dim * n_tokens**2  # causal: half a square
        computing = (2 * self.macs * n_tokens + attention) / self._computing
        least = self.read_bytes / self._reading
        return max(computing, least) + self._messages(n_tokens)

    def prefill_tok_s(self, n_tokens: int) -> float:
        return n_tokens / self.prefill_s(n_tokens)

    def token_s(self, n_users: int, load: Load) -> float:
        """Seconds between a user's tokens while `n_users` replies are written, their prompts read
        in between; infinite where prompts alone are more than can be read.

        A reply's context is its prompt and half of itself, on average. With R tokens a reply,
        every step ends n/R replies, whose places are taken by new prompts.
        """
        step = self.step_s(n_users, load.prompt + load.reply // 2)
        return step + n_users / load.reply * self.prefill_s(load.prompt)

    def users(self, load: Load, token_s: float, cached_tokens: float) -> int:
        """The most replies at a time with no more than `token_s` seconds between tokens and their
        contexts in a cache of so many tokens."""
        low, high = 0, _MOST_USERS
        room = math.floor(cached_tokens / (load.prompt + load.reply))
        high = min(high, room)
        while low < high:
            middle = (low + high + 1) // 2
            if self.token_s(middle, load) <= token_s:
                low = middle
            else:
                high = middle - 1
        return low
