"""Texts that tokenizers get wrong, and as many random ones as wanted."""

from __future__ import annotations

import random
from collections.abc import Iterator

SPACE = "▁"  # stands for a space inside pieces, and decodes to one: the one exception
MARKERS = ("<PRE>", "<SUF>", "<MID>", "<EOT>", "<step>")

ODD = (
    "",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "\0",
    "a\0b",
    " Hello",
    "   three",
    "trailing ",
    "\ttab\n\n  def f(x):\n\treturn x  \n",
    "naïve café Ω ж 中文 ไทย हिन्दी עברית العربية",
    "👩‍👩‍👧‍👦 🇨🇭 e\u0301 \u200b\u200d\ufeff",
    "\ufffd \ufffe \uffff \ue000 \U0010ffff",
    f"{SPACE}under{SPACE}{SPACE}line",
    "<s>not a beginning</s> <unk> <0x0A> <|im_end|> <pad>",
    "[INST] a [/INST] <<SYS>> b <</SYS>>",
    "a <Elem b <Max c <SU d <SUF e <PR f <PRE g <EO h <EOT",
    "<SUF>",
    " <SUF>",
    "a <SUF> b",
    f"{SPACE}<SUF>{SPACE}<PRE>",
    "<PRE> <SUF><MID> <EOT><EOT> <EOT><EOT><EOT> <step>",
    "1234567890 3.14e-10 0xDEADBEEF",
    "x" * 300,
    " " * 100,
    "=" * 77,
    "ab" * 150,
)

_ATOMS = (
    *(" ", "  ", "    ", "\n", "\t", SPACE, "\r\n", "☺", "☺ "),
    *MARKERS,
    *("<", ">", "<S", "SUF", "SUF>", "UF>", "PRE", "EOT", "<EOT", "M", "MID", "E", "s>", "</s>"),
    *("def ", "return", "self.", "(x", "):", "import os", "==", "print", "'", '"', "#", "//", "0"),
    *("é", "ß", "中", "ไ", "😀", "\u0301", "\0", "\x7f", "\xa0", "\u2028", "\ufeff", "\ufffd"),
)


def texts(n: int, seed: int = 0) -> Iterator[str]:
    """The odd ones first, then random mixtures of words, markers and characters of any kind."""
    yield from ODD
    choice = random.Random(seed)
    for _ in range(n - len(ODD)):
        parts = []
        for _ in range(choice.randrange(1, 24)):
            kind = choice.random()
            if kind < 0.7:
                parts.append(choice.choice(_ATOMS))
            elif kind < 0.85:
                parts.append(chr(choice.randrange(0x20, 0x250)))
            else:
                parts.append(any_character(choice))
        yield "".join(parts)


def any_character(choice: random.Random) -> str:
    """Any code point but half a surrogate pair."""
    point = choice.choice((choice.randrange(0x110000), choice.randrange(0x10000)))
    return chr(point) if not 0xD800 <= point < 0xE000 else "\ud7ff"
