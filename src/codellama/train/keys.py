"""Documents in which something must be found again: a toy of the paper's key retrieval.

Short functions that return two digits stand between functions of the corpus; at the end they are
asserted in another order (Code Llama, arXiv 2308.12950, section 3.3 and appendix). Nothing but the
text far above says what an assertion expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from codellama.train.corpus import Document
from codellama.train.data import Sample
from codellama.train.infilling import Encoder

_NAMES = ("name", "value", "data", "path", "key", "text", "line", "file", "result", "index", "size",
          "item", "type", "code", "list", "node", "field", "args", "module", "start", "end", "time",
          "error", "message")  # fmt: skip
_MAX_FILLER = 200  # ids of one function between two keys


@dataclass(frozen=True)
class KeyText:
    """One document: ids, and where each asserted number's digits stand among them."""

    ids: list[int]
    n_given: int
    answers: list[int]  # places of first digits; the second one follows


class KeySource:
    """Such documents of at most `length + 1` ids, as many as there are functions to stand between.

    Only what the assertions expect is learned from.
    """

    def __init__(self, functions: Sequence[Document], tokenizer: Encoder, length: int) -> None:
        self._functions, self._tokenizer, self._length = functions, tokenizer, length

    def __len__(self) -> int:
        return len(self._functions)

    def sample(self, number: int, key: str) -> Sample:
        """A document that fills a row; all of it follows from `key`."""
        random = Random(key)
        made = self.text(random, self._length, n_keys=random.randint(4, 9))
        return Sample(made.ids, made.n_given)

    def text(self, random: Random, length: int, n_keys: int, first: bool = False) -> KeyText:
        """A document of at most `length + 1` ids with up to `n_keys` keys.

        With `first` all keys stand at the head, so that everything else lies between question and
        answer.
        """
        encode = self._tokenizer.encode_bare
        names = random.sample(_NAMES, n_keys)
        digits = [(random.randint(1, 9), random.randint(0, 9)) for _ in names]
        keys = [encode(f"def {n}(): return {a}{b}\n\n")
                for n, (a, b) in zip(names, digits, strict=True)]  # fmt: skip
        questions = [encode(f"assert {n}() == ") for n in names]
        answers = [encode(f"{a}{b}\n") for a, b in digits]
        sizes = map(len, (a + b + c for a, b, c in zip(keys, questions, answers, strict=True)))
        ends = list(accumulate(sizes, initial=1))
        n_keys = max(n for n, end in enumerate(ends) if end <= length + 1 or n == 1)
        keys, used = keys[:n_keys], ends[n_keys]
        filler = []
        for _ in range(40):
            text = self._functions[random.randrange(len(self._functions))].text
            ids = encode(text + "\n")
            if len(ids) <= _MAX_FILLER and used + len(ids) <= length + 1:
                filler.append(ids)
                used += len(ids)
        parts = [*keys, *filler]
        if not first:
            random.shuffle(parts)
        ids = [self._tokenizer.bos_id, *(i for part in parts for i in part)]
        places = []
        order = list(range(n_keys))
        random.shuffle(order)
        n_given = len(ids) + len(questions[order[0]])
        for i in order:
            ids += questions[i]
            places.append(len(ids))
            ids += answers[i]
        return KeyText(ids, n_given, places)
