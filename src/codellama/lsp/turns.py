"""One piece of work for each document at a time: a newer one ends the older."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """Runs work by key. Work that is superseded is cancelled, and its caller gets None at once."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` comes to; None when newer work for `key` came meanwhile.

        A caller that is cancelled cancels its work.
        """
        self.end(key)
        task = asyncio.ensure_future(work)
        self._tasks[key] = task
        try:
            return await task
        except asyncio.CancelledError:
            if self._tasks.get(key) is task:  # the caller was cancelled, not the work
                task.cancel()
                raise
            return None
        finally:
            if self._tasks.get(key) is task:
                del self._tasks[key]

    def end(self, key: str) -> None:
        """Cancels what runs for `key`; its caller gets None."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
