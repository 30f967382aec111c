"""How a reply is drawn and where it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from codellama.errors import RequestError

MAX_STOPS = 32
MAX_STOP_CHARS = 256
MAX_BIASES = 300
MAX_LOGPROBS = 20
MAX_DRAFT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one reply is drawn. Every field is checked when the object is made.

    `max_tokens` ends the reply with finish reason "length"; so does the end of the context, where
    that comes first. None asks for all of the context that the prompt leaves. `stop` strings cut
    the text before their first occurrence. The same `seed` gives the same reply whatever else is
    running; None draws one, which the completion reports. `logprobs` asks for the log-probability
    of each token and of that many alternatives beside it (0: of the token alone). Repetition
    penalty follows transformers (prompt and reply), presence and frequency penalties follow
    OpenAI (reply only). `logit_bias` is added to the logits of the ids it names. `draft_tokens` is
    how many tokens are guessed ahead in a step at most, which changes the reply's speed and nothing
    else; None leaves it to the engine, and 0 guesses none.

    Raises:
        RequestError: a field has the wrong type or is out of its range.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = 256
    stop: str | Sequence[str] = ()
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    logprobs: int | None = None
    ignore_eos: bool = False
    draft_tokens: int | None = None

    def __post_init__(self) -> None:
        self._number("temperature", 0, 100)
        self._number("top_p", 0, 1)
        self._number("min_p", 0, 1)
        self._number("repetition_penalty", 0.01, 100)
        self._number("presence_penalty", -2, 2)
        self._number("frequency_penalty", -2, 2)
        self._integer("top_k", 1, (1 << 31) - 1, off="consider every token")
        self._integer("max_tokens", 1, (1 << 31) - 1, off="go on to the end of the context")
        self._integer("seed", 0, (1 << 64) - 1, off="draw one")
        self._integer("logprobs", 0, MAX_LOGPROBS, off="leave them out")
        self._integer("draft_tokens", 0, MAX_DRAFT_TOKENS, off="leave it to the engine")
        if type(self.ignore_eos) is not bool:
            _refuse("ignore_eos", self.ignore_eos, "True or False")
        self._set("stop", self._checked_stops())
        self._set("logit_bias", self._checked_biases())

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, always as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # a NaN fails the comparison
            _refuse(name, value, f"a number from {low:g} to {high:g}")
        self._set(name, float(value))

    def _integer(self, name: str, low: int, high: int, *, off: str) -> None:
        value = getattr(self, name)
        if value is not None and (type(value) is not int or not low <= value <= high):
            _refuse(name, value, f"an integer from {low} to {high}, or None to {off}")

    def _checked_stops(self) -> tuple[str, ...]:
        value: Any = self.stop
        wanted = f"a string or up to {MAX_STOPS} of them, each of 1 to {MAX_STOP_CHARS} characters"
        if not isinstance(value, (str, list, tuple)):
            _refuse("stop", value, wanted)
        stops = (value,) if isinstance(value, str) else tuple(value)
        if len(stops) > MAX_STOPS:
            raise RequestError(f"`stop` has {len(stops)} entries; expected {wanted}")
        for stop in stops:
            if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARS:
                _refuse("stop", stop, wanted)
        return stops

    def _checked_biases(self) -> Mapping[int, float]:
        value: Any = self.logit_bias
        wanted = f"a mapping of up to {MAX_BIASES} token ids to numbers from -100 to 100"
        if not isinstance(value, Mapping):
            _refuse("logit_bias", value, wanted)
        if len(value) > MAX_BIASES:
            raise RequestError(f"`logit_bias` has {len(value)} entries; expected {wanted}")
        for token, bias in value.items():
            if type(token) is not int or token < 0:
                _refuse("logit_bias", token, wanted)
            if isinstance(bias, bool) or not isinstance(bias, (int, float)):
                _refuse("logit_bias", bias, wanted)
            if not math.isfinite(bias) or abs(bias) > 100:
                _refuse("logit_bias", bias, wanted)
        return {token: float(bias) for token, bias in value.items()}


def _refuse(name: str, value: object, wanted: str) -> NoReturn:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    raise RequestError(f"`{name}` is {shown}; expected {wanted}")
