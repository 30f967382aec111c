"""What comes back: whole completions, and the pieces of one that is streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One generated token's natural log-probability, under the unscaled logits.

    `top` holds the most probable tokens of that position with theirs, most probable first; it need
    not hold the token itself. The first `n_begun` characters of the token's text were there before
    the reply.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    n_begun: int = 0


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where a request's time went, on the wall clock: other requests may have shared it.

    `prefill_s` runs from the first step that worked on the prompt to the first token, `decode_s`
    from there to the last token. `tokens_per_s` counts the tokens after the first; None where there
    are none. `drafted_tokens` were guessed ahead, `accepted_tokens` of them rightly.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second after the first one."""
        if self.completion_tokens < 2 or self.decode_s <= 0:
            return None
        return (self.completion_tokens - 1) / self.decode_s

    @property
    def prompt_tokens_per_s(self) -> float | None:
        """Prompt tokens read per second, those found in the cache left out."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prefill_s if computed > 0 and self.prefill_s > 0 else None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One finished reply.

    `token_ids` are the tokens generated before the one that ended the reply: an end-of-text token,
    or the token that completed a stop string, is not among them, and `logprobs` (where asked for)
    has one entry for each. Where a stop string cut the text, the last ids may therefore reach into
    the part that was cut. Tokens that only repeat what a prompt had begun are not among them
    either. `seed` repeats this reply alone. `error` says what went wrong where
    `finish_reason` is "error"; `stop_string` is the one that ended the text, if one did.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_tokens: int
    cached_tokens: int
    seed: int
    timings: Timings
    error: str | None = None
    stop_string: str | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next part of a streamed reply: text that will not change any more, and its tokens.

    Joined, the texts and ids of all pieces are those of the `completion` that the last piece, and
    no other, carries together with the finish reason.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    completion: Completion | None = None
