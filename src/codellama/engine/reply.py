"""What a sequence has said so far, as text that will not change any more."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Protocol

from codellama.engine.completion import FinishReason, TokenLogprob
from codellama.text.stops import StopFilter


class Decoder(Protocol):
    """Ids one by one to text, never half a character."""

    def push(self, token: int, /) -> str: ...

    def finish(self) -> str: ...


class Reply:
    """Decodes generated tokens, holds back what may become a stop string, and cuts before one.

    A token that completes a stop string is not part of the reply, and nor is one that only repeats
    what is `begun`, the text that was there before it.
    """

    def __init__(
        self, decoder: Decoder, stops: List[str], *, with_logprobs: bool, begun: str = ""
    ) -> None:
        self._decoder = decoder
        self._n_begun = len(begun)  # characters that are still to be repeated
        self._filter = StopFilter(stops)
        self._parts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = [] if with_logprobs else None
        self._n_parts_taken = 0
        self._n_tokens_taken = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._filter.hit

    def push(self, token_id: int, logprob: float, top: tuple[tuple[int, float], ...]) -> bool:
        """Adds a generated token. Returns whether it completed a stop string."""
        text, n_begun = self._decoder.push(token_id), 0
        if self._n_begun:
            n_begun = min(self._n_begun, len(text))
            self._n_begun -= n_begun
            text = text[n_begun:]
            if not text:
                return False
        if self._show(text):
            return True
        self.token_ids.append(token_id)
        if self.logprobs is not None:
            self.logprobs.append(
                TokenLogprob(token_id=token_id, logprob=logprob, top=top, n_begun=n_begun)
            )
        return False

    def finish(self, reason: FinishReason) -> FinishReason:
        """Lets go of what was held back; half a character at the end becomes U+FFFD.

        Returns the reason, which is "stop" if that last text completed a stop string.
        """
        if self._filter.stopped:
            return reason
        if self._show(self._decoder.finish()):
            return "stop" if reason == "length" else reason
        self._parts.append(self._filter.finish())
        return reason

    def take(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprob, ...] | None]:
        """Text, ids and log-probabilities that came since the last call."""
        text = "".join(self._parts[self._n_parts_taken :])
        ids = tuple(self.token_ids[self._n_tokens_taken :])
        logprobs = None
        if self.logprobs is not None:
            logprobs = tuple(self.logprobs[self._n_tokens_taken :])
        self._n_parts_taken = len(self._parts)
        self._n_tokens_taken = len(self.token_ids)
        return text, ids, logprobs

    def _show(self, text: str) -> bool:
        """Adds what of the text is safe to show. Returns whether it completed a stop string."""
        shown = self._filter.push(text)
        if shown:
            self._parts.append(shown)
        return self._filter.stopped
