"""Starting, watching and ending a server."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from codellama.engine.loading import load_model
from codellama.errors import ConfigError
from codellama.runners import EngineName
from codellama.server.app import make_app, make_state
from codellama.server.protocol import Crowd, protocol_class
from codellama.server.served import Registry, Served
from codellama.server.settings import Settings
from codellama.server.web import State

log = logging.getLogger("codellama.server")

EXIT_STALLED = 70
_SWITCH_S = 0.0005  # so that the engine's thread waits for the event loop's no longer than this
_HOST_PROMPTS = 128  # tokens of prompts in a step on a CPU, beside one for each reply
_HOST_CROWD = 1024  # those while a crowd waits for its first tokens
_FORCED_S = 2.0  # from the second signal to the end

Say = Callable[[str], None]


class JsonLines(logging.Formatter):
    """One JSON object a record; control characters in it are escaped by JSON itself."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        found |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            found["exception"] = record.exc_info[0].__name__
        return json.dumps(found, ensure_ascii=True)


def set_up_logs(level: str) -> None:
    """Our own records as JSON on standard error; of uvicorn's, errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.handlers = [handler]
    log.setLevel(level.upper())
    log.propagate = False
    other = logging.getLogger("uvicorn")
    other.handlers = [handler]
    other.setLevel("ERROR")
    other.propagate = False


class Server(uvicorn.Server):
    """uvicorn's server, which drains before it stops and leaves with code 0."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state
        self._drain: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends."""
        if self._state.is_draining:
            self.should_exit = self.force_exit = True
            timer = threading.Timer(_FORCED_S * 0.75, os._exit, [0])
            timer.daemon = True
            timer.start()
            return
        self._state.is_draining = True
        if self.loop is None:
            self.should_exit = True
            return
        self.loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        log.info("draining")
        models = self._state.registry.models
        await asyncio.gather(*(m.service.drain(self._state.settings.drain_s) for m in models))
        await asyncio.sleep(0.1)  # so that last events are written
        self.should_exit = True


def watch(
    state: State, *, leave: Callable[[int], None] = os._exit, every_s: float = 1.0
) -> threading.Thread:
    """A thread that ends the process when an engine is stuck in one step, and says where."""

    def look() -> None:
        while True:
            time.sleep(every_s)
            stalled_s = max((m.service.stalled_s for m in state.registry.models), default=0)
            if stalled_s > state.settings.stall_exit_s:
                log.error("the engine has been in one step for %.0f s", stalled_s)
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                leave(EXIT_STALLED)
                return

    thread = threading.Thread(target=look, name="watchdog", daemon=True)
    thread.start()
    return thread


def load(settings: Settings) -> list[Served]:
    """Every model of the settings, in their order, and then the adapters of the first."""
    base = next(iter(settings.models.values()))
    wanted: list[tuple[str, str, Path | None]] = [
        (name, path, None) for name, path in settings.models.items()
    ]
    wanted += [(name, base, Path(path)) for name, path in settings.adapters.items()]
    found = []
    for name, path, adapter in wanted:
        model = load_model(
            path,
            engine=_engine(settings.engine),
            device=settings.device,
            weights=settings.weights,
            max_seq_len=settings.max_seq_len,
            max_num_seqs=settings.max_num_seqs,
            step_tokens=step_tokens(settings),
            prompt_tokens=prompt_tokens(settings),
            n_threads=settings.threads,
            kv_cache=settings.kv_cache,
            speculation="off" if settings.speculation == "off" else "lookup",
            draft_model=settings.draft_model,
            adapter=adapter,
        )
        if model.tokenizer.has_infill:
            _ = model.tokenizer.beginnings  # made now, which no request should wait for
        shown = None if adapter is None else str(adapter)
        found.append(Served.over(name, path, model, settings.limits, adapter=shown))
    return found


def _engine(name: str | None) -> EngineName | None:
    return None if name is None else "torch" if name == "torch" else "cpu"


def step_tokens(settings: Settings) -> int | None:
    """Tokens that a step computes at most; None leaves it to the device.

    Replies under way leave prompts their share however many they are: else the last of a crowd
    would be read in crumbs.
    """
    if settings.step_tokens is not None:
        return max(settings.step_tokens, settings.max_num_seqs)
    if settings.device not in (None, "cpu"):
        return None
    return settings.max_num_seqs + _HOST_CROWD


def prompt_tokens(settings: Settings) -> int | None:
    """Tokens of prompts in a step beside replies, at most; None where the device sets no bound."""
    if settings.step_tokens is not None:
        return settings.step_tokens
    return None if settings.device not in (None, "cpu") else _HOST_PROMPTS


def serve(
    settings: Settings,
    keys: Sequence[str],
    version: str,
    say: Say,
    *,
    load: Callable[[Settings], list[Served]] = load,
) -> None:
    """Serves what `load` loads, in a thread of its own, until a signal ends it.

    Raises:
        CodeLlamaError: a model cannot be loaded.
        ConfigError: the address cannot be listened at.
    """
    set_up_logs(settings.log_level)
    sys.setswitchinterval(_SWITCH_S)
    state = make_state(settings, Registry(()), version)
    config = uvicorn.Config(
        make_app(state, keys),
        host=settings.host,
        port=settings.port,
        http=protocol_class(settings.limits, Crowd()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.limits.idle_s),
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
    server = Server(config, state)
    socket = _listen(config)
    host, port = socket.getsockname()[:2]
    failure: list[BaseException] = []

    async def main() -> None:
        loader = ThreadPoolExecutor(1)
        loading = asyncio.get_running_loop().run_in_executor(loader, load, settings)
        loading.add_done_callback(begin)
        await server.serve(sockets=[socket])

    def begin(loading: asyncio.Future[list[Served]]) -> None:
        error = None if loading.cancelled() else loading.exception()
        if error is not None:
            failure.append(error)
            server.should_exit = True
            return
        models = loading.result()
        for served in models:
            for note in served.model.notes:
                say(note)
            say(f"{served.name}: {served.model.plan.describe()}")
            served.service.start()
        state.registry = Registry(models, is_strict=settings.strict_models)
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {', '.join(m.name for m in models)} at http://{shown}:{port}")

    watch(state)
    asyncio.run(main())
    for served in state.registry.models:
        served.service.stop(timeout_s=1)
    state.registry = Registry(())  # the watchdog lives on, and the models need not
    if failure:
        raise failure[0]


def _listen(config: uvicorn.Config) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((config.host, config.port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"cannot listen at {config.host}:{config.port}: {error.strerror or error}",
            hint="choose another --port, or 0 for any that is free",
        ) from error
    return found
