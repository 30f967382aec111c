"""Documents in which something must be found again: a toy of the paper's key retrieval.

Functions with numbers in their names, `def path47(): pass`, stand among functions of the corpus and
are asserted further down, `assert path47()` (after Code Llama, arXiv 2308.12950, section 3.3 and
appendix). Nothing but the text above says which number belongs to a name; the number is the key.

The paper's models knew how to copy before they met this; a toy must learn it here, so there are two
kinds, half of the documents each. In one every key is asserted once, behind everything else, and
only what these assertions expect is learned from. In the other definitions, assertions and now and
then a function take turns, and a key comes back again and again: copying over short distances, of
which there is much to learn from in little text. Lengths lie evenly between `_SHORTEST` ids and a
row, by their logarithms, so that every distance within a row occurs, and none beyond it.
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
_SHORTEST = 64  # ids of a document


@dataclass(frozen=True)
class KeyText:
    """One document: ids, and where each asserted number's digits stand among them."""

    ids: list[int]
    n_given: int
    answers: list[int]  # places of first digits; the second one follows


class KeySource:
    """Such documents of at most `length + 1` ids, as many as there are functions to stand between.

    Everything about one follows from the key it is asked for with.
    """

    def __init__(self, functions: Sequence[Document], tokenizer: Encoder, length: int) -> None:
        self._functions, self._tokenizer, self._length = functions, tokenizer, length
        self._ids: dict[int, list[int]] = {}  # of functions, once they were needed

    def __len__(self) -> int:
        return len(self._functions)

    def sample(self, number: int, key: str) -> Sample:
        """A document of either kind."""
        random = Random(key)
        shortest = min(_SHORTEST, self._length)
        length = int(shortest * (self._length / shortest) ** random.random())
        if random.random() < 0.5:
            return Sample(self.repeated(random, length))
        made = self.text(random, length, n_keys=random.randint(1, 4), first=random.random() < 0.5)
        return Sample(made.ids, made.n_given)

    def text(self, random: Random, length: int, n_keys: int, first: bool = False) -> KeyText:
        """A document of at most `length + 1` ids with up to `n_keys` keys, asserted at its end.

        With `first` all keys stand at the head, so that everything else lies between question and
        answer.
        """
        keys = self._keys(random, n_keys)
        sizes = [sum(map(len, parts)) for parts in keys]
        ends = list(accumulate(sizes, initial=1))
        n_keys = max(n for n, end in enumerate(ends) if end <= length + 1 or n == 1)
        keys, used = keys[:n_keys], ends[n_keys]
        filler = []
        for _ in range(40):
            ids = self._function(random)
            if used + len(ids) <= length + 1:
                filler.append(ids)
                used += len(ids)
        parts = [*(defined for defined, _, _ in keys), *filler]
        if not first:
            random.shuffle(parts)
        ids = [self._tokenizer.bos_id, *(i for part in parts for i in part)]
        places = []
        random.shuffle(keys)
        n_given = len(ids) + len(keys[0][1])
        for _, question, answer in keys:
            ids += question
            places.append(len(ids))
            ids += answer
        return KeyText(ids, n_given, places)

    def repeated(self, random: Random, length: int) -> list[int]:
        """A document of at most `length + 1` ids in which keys come back again and again."""
        to_come = self._keys(random, random.randint(3, 8))
        known: list[tuple[list[int], list[int], list[int]]] = []
        ids = [self._tokenizer.bos_id]
        share = random.uniform(0, 0.25)  # of functions
        while True:
            if to_come and (not known or random.random() < 0.4):
                known.append(to_come.pop())
                more = known[-1][0]
            elif random.random() < share:
                more = self._function(random)
            else:
                _, question, answer = random.choice(known)
                more = question + answer
            if len(ids) + len(more) > length + 1:
                return ids
            ids += more

    def _keys(self, random: Random, n: int) -> list[tuple[list[int], list[int], list[int]]]:
        """Ids of `n` definitions, of what asks for them, and of what has to be said then."""
        encode = self._tokenizer.encode_bare
        found = []
        for name in random.sample(_NAMES, n):
            digits = f"{random.randint(1, 9)}{random.randint(0, 9)}"
            found.append((encode(f"def {name}{digits}(): pass\n\n"),
                          encode(f"assert {name}"), encode(f"{digits}()\n")))  # fmt: skip
        return found

    def _function(self, random: Random) -> list[int]:
        """The ids of a function to stand between; one that is too long loses its end."""
        number = random.randrange(len(self._functions))
        if number not in self._ids:
            ids = self._tokenizer.encode_bare(self._functions[number].text + "\n")
            self._ids[number] = ids[:_MAX_FILLER]
        return self._ids[number]
