"""What replies: a model in this process, an address that speaks OpenAI's API, or stored samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from codellama.eval.suite import Ask, Reply, Sampling


@dataclass(frozen=True, kw_only=True)
class Request:
    """One reply that is wanted: the sample's own seed makes it the same whenever it is drawn."""

    problem: str
    sample: int
    ask: Ask
    sampling: Sampling
    seed: int


class Source(Protocol):
    """Replies to many requests, in the order in which they are ready."""

    @property
    def name(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """What the result file says about the model, its digest included where there is one."""
        ...

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        """Takes requests as it has room.

        Raises:
            CodeLlamaError: no reply can be had; a single request that cannot be served is a
                `Reply` with an error instead.
        """
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, or a guess where only somebody else knows."""
        ...

    def close(self) -> None: ...
