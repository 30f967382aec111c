"""Document -> prefix, suffix and middle, reordered.

Two cut points are drawn independently and uniformly over the characters of a document; half of
the documents become prefix-suffix-middle, half suffix-prefix-middle (Code Llama, arXiv 2308.12950,
section 2.3). Prefix and middle of the second order are encoded as one text, so there no token is
split at their border.

Uniform cuts hide a third of the text on average and almost never just a line, which is what editors
ask for. A model with little to learn from never meets that case, so a recipe may have some of its
documents cut by `split_lines` in place of `split`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from codellama.errors import ConfigError

Order = Literal["psm", "spm"]


class Encoder(Protocol):
    """What training needs of a tokenizer."""

    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def prefix_id(self) -> int | None: ...
    @property
    def suffix_id(self) -> int | None: ...
    @property
    def middle_id(self) -> int | None: ...
    @property
    def eot_id(self) -> int | None: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_bare(self, text: str) -> list[int]: ...


def split(text: str, random: Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix at two uniformly drawn positions; any of them may be empty."""
    a, b = sorted((random.randint(0, len(text)), random.randint(0, len(text))))
    return text[:a], text[a:b], text[b:]


def split_lines(text: str, random: Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix; the middle ends where a line ends.

    Half of the middles start where a line starts, half somewhere within it. Most are one line, and
    each further line is added with a probability of one third. Text of blank lines is not cut out.
    """
    lines = text.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip()]
    if not full:
        return split(text, random)
    first = last = random.choice(full)
    while last + 1 < len(lines) and random.random() < 1 / 3:
        last += 1
    start = sum(len(line) + 1 for line in lines[:first])
    end = start + sum(len(line) + 1 for line in lines[first : last + 1]) - 1
    if random.random() < 0.5:
        start += random.randint(0, len(lines[first]))
    return text[:start], text[start:end], text[end:]


class Stretches(Protocol):
    """A text whose stretches, from one character to another, can be encoded."""

    def spaced(self, b: int) -> list[int]: ...
    def bare(self, a: int, b: int) -> list[int]: ...


@dataclass(frozen=True)
class PlainText:
    """The stretches of a text, encoded one by one: what any faster way must agree with."""

    text: str
    tokenizer: Encoder

    def spaced(self, b: int) -> list[int]:
        """The ids of the first `b` characters, with the space that a text begins with."""
        return self.tokenizer.encode(self.text[:b]) if b else []

    def bare(self, a: int, b: int) -> list[int]:
        """The ids of characters `a` to `b` without a space in front."""
        return self.tokenizer.encode_bare(self.text[a:b]) if a < b else []


def infilled(tokenizer: Encoder, prefix: str, middle: str, suffix: str, order: Order) -> list[int]:
    """The ids of one infilling document, `<s>` first and `▁<EOT>` last.

    Raises:
        ConfigError: the tokenizer lacks a marker.
    """
    text = PlainText(prefix + middle + suffix, tokenizer)
    ends = (len(prefix), len(prefix) + len(middle), len(text.text))
    return arranged(tokenizer, text, ends, order)


def arranged(
    tokenizer: Encoder, text: Stretches, ends: tuple[int, int, int], order: Order
) -> list[int]:
    """The same from a text and the ends of its prefix, middle and suffix, in characters."""
    a, b, n = ends
    pre, suf = tokenizer.prefix_id, tokenizer.suffix_id
    mid, eot = tokenizer.middle_id, tokenizer.eot_id
    if pre is None or suf is None or mid is None or eot is None:
        raise ConfigError(
            "the tokenizer has no infilling markers",
            hint="set infill_rate = 0, or train a tokenizer with `codellama data build`",
        )
    if order == "psm":
        ids = [pre, *text.spaced(a), suf, *text.bare(b, n), mid, *text.bare(a, b)]
    else:
        ids = [pre, suf, *text.bare(b, n), mid, *text.spaced(b)]
    return [tokenizer.bos_id, *ids, eot]
