"""Whole engines behind one server: Ray Serve starts, counts and watches them.

The server, with its routes, limits and keys, is the one that a single engine has, and so are
prompts and texts. A replica gets token ids and gives out token ids. When one dies with replies
unfinished, each is drawn again elsewhere with its seed, and the tokens that the client has already
are passed over: nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.cluster.connection import connect, has_gpus, ray, require
from codellama.cluster.engines import for_others, needed
from codellama.cluster.ranking import beginning
from codellama.cluster.steps import AsyncSteps, Drawn, EngineGone, LoopThread
from codellama.engine.completion import TokenLogprob
from codellama.engine.loading import Model
from codellama.engine.params import SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Score
from codellama.errors import ConfigError, EngineFailed
from codellama.server import run
from codellama.server.refusals import Refusal
from codellama.server.served import Served
from codellama.server.settings import Settings

APP = "codellama"
_RETRIES = 5
_PAUSE_S = 0.2
_MARGIN = 2  # requests that may wait in a replica, beside those it computes


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a replica says of itself."""

    n_blocks: int
    block_size: int
    max_seq_len: int
    notes: tuple[str, ...]


class Replica:
    """One engine in a process of Ray Serve. Its methods run in the process's event loop."""

    def __init__(self, settings: Settings) -> None:
        from codellama.cluster.engines import loaded

        self._stack = ExitStack()
        (self._served,) = self._stack.enter_context(loaded(settings))
        self._is_started = False
        self._stall_exit_s = settings.stall_exit_s

    def _service(self) -> Any:
        if not self._is_started:
            self._is_started = True
            self._served.service.start()
        return self._served.service

    async def sizes(self, *, route_key: bytes = b"") -> Sizes:
        plan = self._served.model.plan
        return Sizes(
            n_blocks=plan.n_blocks,
            block_size=plan.block_size,
            max_seq_len=plan.max_seq_len,
            notes=self._served.model.notes,
        )

    async def draw(
        self, prompt: Prompt, params: SamplingParams, *, scope: bytes, route_key: bytes
    ) -> AsyncGenerator[Drawn, None]:
        """The tokens of one reply, which the caller ends by closing the generator."""
        while True:
            try:
                generation = self._service().submit([prompt], params, 1, scope=scope)
                break
            except Refusal as refusal:
                if refusal.status != 429:
                    self.check_health()
                    raise RuntimeError(str(refusal)) from refusal
                await asyncio.sleep(_PAUSE_S)
        try:
            async for batch in generation.batches():
                ids: list[int] = []
                tops: list[TokenLogprob] = []
                last = None
                for _, piece in batch:
                    ids += piece.token_ids
                    tops += piece.logprobs or ()
                    last = piece.completion or last
                if last is not None and last.finish_reason == "error":
                    raise RuntimeError(last.error)
                yield Drawn(
                    ids=tuple(ids),
                    logprobs=None if params.logprobs is None else tuple(tops),
                    is_last=last is not None,
                    is_stopped=last is not None and last.finish_reason == "stop",
                    cached=0 if last is None else last.cached_tokens,
                )
            if generation.failure is not None:
                self.check_health()
                raise RuntimeError(generation.failure)
        finally:
            generation.cancel()

    async def score(
        self, ids: tuple[int, ...], n_top: int, *, scope: bytes, route_key: bytes
    ) -> Score:
        found: Score = await self._service().score(ids, n_top, scope)
        return found

    def check_health(self) -> None:
        """Ends the process where the engine has stopped, or is stuck in a step: its replies are
        then drawn elsewhere, as those of a lost machine, and Ray Serve starts another."""
        service = self._served.service
        if service.failure is not None or service.stalled_s > self._stall_exit_s:
            os._exit(run.EXIT_STALLED)


class ReplicaSource:
    """A `Source` over a handle of Ray Serve's.

    Args:
        handle: of the deployment of `Replica`.
        died: exceptions that say that a replica, and not a request, has failed.
    """

    def __init__(self, handle: Any, died: tuple[type[BaseException], ...]) -> None:
        self._handle = handle
        self._died = died

    async def draw(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        max_tokens: int,
        seed: int,
        scope: bytes,
    ) -> AsyncGenerator[Drawn, None]:
        wanted = replace(params, max_tokens=max_tokens, seed=seed, stop=())
        given: list[int] = []
        for attempt in range(_RETRIES + 1):
            try:
                async with aclosing(self._stream(prompt, wanted, scope)) as stream:
                    skip = len(given)
                    async for drawn in stream:
                        rest, skip = unseen(drawn, given, skip)
                        given += rest.ids
                        yield rest
                return
            except self._died as error:
                if attempt == _RETRIES:
                    raise EngineGone("no replica of the model answers") from error
                await asyncio.sleep(_PAUSE_S * 2**attempt)

    async def _stream(
        self, prompt: Prompt, params: SamplingParams, scope: bytes
    ) -> AsyncGenerator[Drawn, None]:
        handle = self._handle.options(stream=True)
        key = beginning(prompt.ids, scope)
        response = handle.draw.remote(prompt, params, scope=scope, route_key=key)
        try:
            async for drawn in response:
                yield drawn
        finally:
            response.cancel()

    async def score(self, request_id: str, ids: tuple[int, ...], n_top: int, scope: bytes) -> Score:
        for attempt in range(_RETRIES + 1):
            try:
                key = beginning(ids, scope)
                found: Score = await self._handle.score.remote(
                    ids, n_top, scope=scope, route_key=key
                )
                return found
            except self._died:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        raise EngineGone("no replica of the model answers")


def unseen(drawn: Drawn, given: Sequence[int], skip: int) -> tuple[Drawn, int]:
    """What of `drawn` comes behind the `skip` tokens of `given` that the client has, and how many
    are still to be passed over.

    Raises:
        RuntimeError: the reply drawn again is another one.
    """
    n = min(skip, len(drawn.ids))
    at = len(given) - skip if skip else 0
    is_short = drawn.is_last and skip > n
    if is_short or tuple(given[at : at + n]) != drawn.ids[:n]:
        raise RuntimeError("a replica was lost, and the reply cannot be drawn again as it was")
    tops = None if drawn.logprobs is None else drawn.logprobs[n:]
    return replace(drawn, ids=drawn.ids[n:], logprobs=tops), skip - n


class Replicas:
    """The deployment, and an engine over all of it."""

    def __init__(self, path: str, settings: Settings) -> None:
        connect()
        serve = import_module("ray.serve")
        exceptions = import_module("ray.exceptions")
        reader = checkpoint.open(resolve(path))
        deployment = self._deployment(serve, settings).bind(for_others(settings))
        serve.start(proxy_location="Disabled", http_options={"location": "NoServer"})
        try:
            self._handle = serve.run(deployment, name=APP, route_prefix=None)
        except Exception as error:
            raise EngineFailed(
                f"the replicas do not start: {(str(error).splitlines() or ['?'])[0][:300]}",
                hint="every machine of the cluster needs the model, at the same path",
            ) from error
        self._handle = self._handle.options(_prefer_local_routing=False)
        self._thread = LoopThread("replicas")
        sizes: Sizes = self._thread.run(self._sizes())
        n = settings.replicas
        chat_form = reader.chat_form
        tokenizer = reader.tokenizer()
        if chat_form == "step" and tokenizer.step_id is None:
            chat_form = None
        from codellama.cluster.vllm import RemoteSizes

        self.model = Model(
            runner=RemoteSizes(reader.config, n * sizes.n_blocks, sizes.block_size),
            tokenizer=tokenizer,
            plan=EnginePlan(
                max_seq_len=sizes.max_seq_len,
                n_blocks=n * sizes.n_blocks,
                block_size=sizes.block_size,
                max_num_seqs=n * settings.max_num_seqs,
                step_tokens=max(512, n * settings.max_num_seqs),
                speculation="off",
            ),
            eos_ids=reader.generation.eos_ids,
            chat_form=chat_form,
            notes=sizes.notes,
        )
        died = (exceptions.RayActorError, exceptions.ActorUnavailableError,
                exceptions.ObjectLostError)  # fmt: skip
        self.engine = AsyncSteps(
            ReplicaSource(self._handle, died),
            self._thread.loop,
            tokenizer,
            self.model.plan,
            n_ids=min(tokenizer.n_vocab, reader.config.vocab_size),
        )

    async def _sizes(self) -> Sizes:
        found: Sizes = await self._handle.sizes.remote()
        return found

    def _deployment(self, serve: Any, settings: Settings) -> Any:
        config = import_module("ray.serve.config")
        cluster = connect()
        cpus, gpus = needed(settings, gpus_are_lent=has_gpus(cluster))
        least = settings.min_replicas or settings.replicas
        require(cluster, "replicas", least, cpus=cpus, gpus=gpus)
        return serve.deployment(
            name="replica",
            max_ongoing_requests=settings.max_num_seqs + _MARGIN,
            autoscaling_config=config.AutoscalingConfig(
                min_replicas=least,
                max_replicas=settings.replicas,
                target_ongoing_requests=max(1, settings.max_num_seqs // 2),
            ),
            request_router_config=config.RequestRouterConfig(
                request_router_class="codellama.cluster.routing:PrefixRouter"
            ),
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            health_check_period_s=5,
        )(Replica)

    def close(self) -> None:
        """Ends the replicas; the cluster stays."""
        self._thread.close()
        import_module("ray.serve").delete(APP)


def check(settings: Settings) -> None:
    """Refuses what replicas do not do."""
    ray()
    if settings.adapters or len(settings.models) > 1:
        raise ConfigError(
            "--replicas serve one model without adapters",
            hint="start a server for each model, on ports of their own",
        )
    if settings.min_replicas is not None and settings.min_replicas > settings.replicas:
        raise ConfigError(
            f"min_replicas is {settings.min_replicas} and replicas {settings.replicas}; expected "
            "no more"
        )


def serve(settings: Settings, keys: Sequence[str], version: str, say: run.Say) -> None:
    """Serves one model by several engines until a signal ends it."""
    check(settings)
    started: list[Replicas] = []

    def load(settings: Settings) -> list[Served]:
        ((name, path),) = settings.models.items()
        replicas = Replicas(path, settings)
        started.append(replicas)
        return [Served.over(name, path, replicas.model, settings.limits, engine=replicas.engine)]

    try:
        run.serve(settings, keys, version, say, load=load)
    finally:
        for replicas in started:
            replicas.close()
