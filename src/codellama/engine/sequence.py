"""One line of tokens, grown for one request."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from codellama.engine.blocks import Content
from codellama.engine.completion import FinishReason
from codellama.engine.params import SamplingParams
from codellama.engine.reply import Reply


@dataclass(frozen=True, slots=True)
class Draw:
    """A token drawn for a sequence; the id is -1 where the logits were no numbers."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sequence's share of a step could not be computed."""

    message: str


class Sequence:
    """Prompt and reply of one request, and where their keys and values are.

    `tokens` is the prompt followed by what was generated, of which the first `n_cached` are in the
    cache, in `blocks`. All but the last token must be there before the next one can be drawn.
    `max_len` is where the sequence ends if nothing ends it earlier; tokens that are no part of the
    reply move it, up to `limit`. While it `is_led`, a constraint says what may come next.
    """

    def __init__(
        self,
        *,
        request_id: int,
        prompt_ids: Iterable[int],
        stop_ids: frozenset[int],
        params: SamplingParams,
        seed: int,
        max_len: int,
        limit: int | None = None,
        scope: Content,
        reply: Reply,
        is_led: bool = False,
    ) -> None:
        self.request_id = request_id
        self.tokens = array("i", prompt_ids)
        self.n_prompt = len(self.tokens)
        self.params = params
        self.seed = seed
        self.max_len = max_len
        self.limit = max_len if limit is None else limit
        self.reply = reply
        self.is_led = is_led
        self.n_cached = 0
        self.blocks: list[int] = []
        self.chain: list[Content] = []  # contents of the full blocks of `tokens`, as far as needed
        self.scope = scope
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.n_preempted = 0
        self.n_reused: int | None = None  # prompt tokens found in the cache; None before the start
        self.n_drafted = 0  # guesses that were computed
        self.n_accepted = 0  # those of them that became part of the reply
        self._stop_ids = frozenset() if params.ignore_eos else stop_ids

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def n_due(self) -> int:
        """Tokens to compute before the next one can be drawn."""
        return len(self.tokens) - self.n_cached

    def accept(self, draw: Draw) -> FinishReason | None:
        """Grows by one drawn token. Returns how that ends the sequence, if it does."""
        token = draw.token_id
        if token < 0:
            self.error = "the model's output was not a number"
            return "error"
        if token in self._stop_ids:
            return "stop"
        self.tokens.append(token)
        n_before = len(self.reply.token_ids)
        if self.reply.push(token, draw.logprob, draw.top):
            return "stop"
        if len(self.reply.token_ids) == n_before:
            self.max_len = min(self.max_len + 1, self.limit)
        return "length" if len(self.tokens) >= self.max_len else None

    def end(self, reason: FinishReason) -> None:
        """Records the one ending; text held back until now is let go."""
        assert self.finish_reason is None, f"request {self.request_id} ended twice"
        self.finish_reason = self.reply.finish(reason)
