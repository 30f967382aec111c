"""The models of a server, by the names that requests use."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from codellama.engine.engine import Engine
from codellama.engine.loading import Model
from codellama.engine.sampler import kernel_for
from codellama.engine.stepping import Stepping
from codellama.runners.sampling import SamplingKernel
from codellama.server.refusals import Refusal
from codellama.server.service import Service
from codellama.server.settings import Limits
from codellama.text.tokenizer import Tokenizer


def never_drawn(tokenizer: Tokenizer) -> list[int]:
    """Ids that no reply has unless a request asks for them: markers, which are no text to show."""
    marks = (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id)
    return [mark for mark in marks if mark is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """One model, its service and what is said about it. `path` is not shown to clients."""

    name: str
    path: str
    model: Model
    service: Service
    adapter: str | None = None  # the folder of what was added to the weights
    vocabularies: dict[int, Any] = field(default_factory=dict)  # for grammars, by their end
    digests: list[str] = field(default_factory=list)  # of the weights, once somebody asked
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def over(
        cls,
        name: str,
        path: str,
        model: Model,
        limits: Limits,
        kernel: SamplingKernel | None = None,
        *,
        adapter: str | None = None,
        engine: Stepping | None = None,
    ) -> Served:
        """A service over a loaded model, or over another engine that runs it."""
        if engine is not None:
            service = Service(engine, limits)
            return cls(name=name, path=path, model=model, service=service, adapter=adapter)
        kernel = kernel_for(model.runner) if kernel is None else kernel
        tokenizer = model.tokenizer
        engine = Engine(
            model.runner,
            tokenizer,
            model.plan,
            kernel,
            drafters=model.drafters,
            never=never_drawn(tokenizer),
        )
        service = Service(engine, limits)
        return cls(name=name, path=path, model=model, service=service, adapter=adapter)

    @property
    def max_seq_len(self) -> int:
        return self.model.plan.max_seq_len

    @property
    def has_infill(self) -> bool:
        return bool(self.model.tokenizer.has_infill)

    @property
    def digest(self) -> str:
        """Tells models apart in listings; not a hash of the weights."""
        return hashlib.sha256(f"{self.name}\0{self.path}".encode()).hexdigest()


class Registry:
    """A fixed table: names are looked up and nothing else happens with them."""

    def __init__(self, models: Iterable[Served], *, is_strict: bool = False) -> None:
        self.models = tuple(models)
        self._is_strict = is_strict
        self._by_name = {served.name: served for served in self.models}
        for served in self.models:
            short = served.name.removeprefix("codellama-")
            for alias in (short, f"codellama:{short}", f"{served.name}:latest"):
                self._by_name.setdefault(alias, served)

    def find(self, name: str) -> Served:
        """The model of that name; the default for no name, and for any where there is but one.

        Raises:
            Refusal: there is no such model.
        """
        if not self.models:
            raise Refusal(503, "the model is loading", code="loading", retry_after=2)
        if not name:
            return self.models[0]
        found = self._by_name.get(name)
        if found is not None:
            return found
        if len(self.models) == 1 and not self._is_strict:
            return self.models[0]
        raise Refusal(
            404,
            f"there is no model of that name; there are {', '.join(m.name for m in self.models)}",
            code="model_not_found",
            param="model",
        )
