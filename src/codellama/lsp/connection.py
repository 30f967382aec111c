"""The way to a server, which somebody else or we started."""

from __future__ import annotations

import asyncio

from codellama.errors import ConfigError
from codellama.lsp.backend import Backend
from codellama.lsp.context import Counter
from codellama.lsp.model import HttpCounter, HttpModel, LocalCounter
from codellama.lsp.settings import Settings
from codellama.lsp.suggest import Suggester


class Connection:
    """At most one server at a time, and what is needed to ask it."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._backend: Backend | None = None
        self._model: HttpModel | None = None
        self._counter: Counter | None = None

    @property
    def url(self) -> str | None:
        """Where the server is, once it is known to answer."""
        return None if self._model is None else self._model.url

    @property
    def is_alive(self) -> bool:
        """Whether a server of our own still runs; another's is taken to."""
        return self._backend is None or self._backend.process.returncode is None

    async def open(self, settings: Settings) -> Suggester:
        """Something to ask for suggestions, over a server that answers.

        Raises:
            EngineFailed: the server cannot be reached, or does not start.
            ConfigError: what the settings ask for does not fit its model.
            CheckpointError: the model that is to count tokens cannot be opened.
        """
        key, url = self._key, settings.url
        try:
            if url is None:
                self._backend = await Backend.start(settings.model)
                key, url = None, self._backend.url
            self._model = HttpModel(url, key=key, timeout_s=settings.timeout_s)
            context = await self._model.context()
            tokenizer = settings.model if settings.url is None else settings.tokenizer
            if tokenizer is None:
                self._counter = HttpCounter(url, key=key, timeout_s=settings.timeout_s)
            else:
                self._counter = await asyncio.to_thread(_local_counter, tokenizer)
        except BaseException:
            await self.close()
            raise
        budget = settings.context_tokens
        if context is not None:
            budget = min(budget, context - settings.max_tokens)
        if budget < 64:
            await self.close()
            raise ConfigError(
                f"the model has {context} tokens of context, and max_tokens is "
                f"{settings.max_tokens}: {max(0, budget)} are left for the prompt",
                hint="lower `max_tokens`",
            )
        return Suggester(self._model, self._counter, settings, budget)

    async def close(self) -> None:
        """Lets go of the server, and ends it where it is ours."""
        model, counter, backend = self._model, self._counter, self._backend
        self._model = self._counter = self._backend = None
        if model is not None:
            await model.close()
        if isinstance(counter, HttpCounter):
            counter.close()
        if backend is not None:
            await backend.stop()


def _local_counter(model: str) -> LocalCounter:
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve

    return LocalCounter(checkpoint.open(resolve(model)).tokenizer())
