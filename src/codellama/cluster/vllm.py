"""vLLM's asynchronous engine behind our server: token ids in, token ids out.

vLLM loads the weights of a Hugging Face folder and draws tokens. Its tokenizer and its chat
templates are never loaded: prompts, text, stop strings and formats of answers stay ours.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.reader import Reader
from codellama.cluster.connection import connect
from codellama.cluster.steps import AsyncSteps, Drawn, EngineGone, LoopThread
from codellama.engine.completion import TokenLogprob
from codellama.engine.loading import Model
from codellama.engine.params import MAX_BIASES, MAX_LOGPROBS, SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Score
from codellama.errors import CheckpointError, ConfigError, MissingExtra
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format
from codellama.runners import Batch
from codellama.server import run
from codellama.server.served import never_drawn
from codellama.server.settings import Settings

_SEED_BITS = (1 << 63) - 1  # vLLM's seeds are signed
_LEAST_TOP_P = 1e-9  # vLLM refuses 0, which keeps the likeliest token as this does
_CPU_CACHE_BYTES = 1 << 30  # of keys and values where there is no GPU, which is for trying


class VllmSource:
    """A `Source` over `vllm.v1.engine.async_llm.AsyncLLM`.

    Args:
        llm: the engine.
        make_params: `vllm.SamplingParams`, which takes keywords.
        never: biases of every request.
    """

    def __init__(self, llm: Any, make_params: Callable[..., Any], never: dict[int, float]) -> None:
        self._llm = llm
        self._make_params = make_params
        self._never = never

    async def draw(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        max_tokens: int,
        seed: int,
        scope: bytes,
    ) -> AsyncGenerator[Drawn]:
        keywords = drawing(params, prompt.stop_ids, max_tokens, seed, self._never)
        wanted = self._make_params(**keywords)
        given = 0
        async with aclosing(self._generate(prompt.ids, wanted, request_id, scope)) as outputs:
            async for output in outputs:
                (one,) = output.outputs
                ids = tuple(one.token_ids)
                given += len(ids)
                tops = None
                if params.logprobs is not None:
                    tops = tuple(
                        _logprob(i, found, params.logprobs)
                        for i, found in zip(ids, one.logprobs, strict=True)
                    )
                yield Drawn(
                    ids=ids,
                    logprobs=tops,
                    is_last=output.finished,
                    cached=output.num_cached_tokens or 0,
                )

    async def score(self, request_id: str, ids: tuple[int, ...], n_top: int, scope: bytes) -> Score:
        wanted = self._make_params(
            temperature=0.0, max_tokens=1, prompt_logprobs=n_top, detokenize=False, ignore_eos=True
        )
        found: list[TokenLogprob | None] = []
        async with aclosing(self._generate(ids, wanted, request_id, scope)) as outputs:
            async for output in outputs:
                if output.prompt_logprobs is not None:
                    found = [
                        None if tops is None else _logprob(token, tops, n_top)
                        for token, tops in zip(ids, output.prompt_logprobs, strict=True)
                    ]
        return Score(logprobs=tuple(found))

    async def _generate(
        self, ids: Sequence[int], params: Any, request_id: str, scope: bytes
    ) -> AsyncGenerator[Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": list(ids)}
        if scope:  # requests of different keys do not find each other's tokens in the cache
            prompt["cache_salt"] = hashlib.sha256(scope).hexdigest()
        try:
            async for output in self._llm.generate(prompt, params, request_id):
                yield output
        except Exception as error:
            if self._llm.errored:
                raise EngineGone(f"vLLM has ended: {type(error).__name__}") from error
            raise


def drawing(
    params: SamplingParams,
    stop_ids: frozenset[int],
    max_tokens: int,
    seed: int,
    never: dict[int, float],
) -> dict[str, Any]:
    """Our parameters as keywords of vLLM's. Stop strings are not among them: they are ours to find.

    vLLM's `ignore_eos` keeps it from adding ends of its own; ours stay among `stop_token_ids`.
    """
    new = {i: bias for i, bias in never.items() if i not in params.logit_bias}
    biases = {**params.logit_bias, **new}
    if len(biases) > MAX_BIASES:
        biases = dict(params.logit_bias)
    return {
        "temperature": params.temperature,
        "top_p": max(params.top_p, _LEAST_TOP_P),
        "top_k": params.top_k or 0,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "max_tokens": max_tokens,
        "seed": seed & _SEED_BITS,
        "logit_bias": biases or None,
        "logprobs": params.logprobs,
        "stop_token_ids": [] if params.ignore_eos else sorted(stop_ids),
        "ignore_eos": True,
        "detokenize": False,
    }


def _logprob(token: int, found: Any, n_top: int) -> TokenLogprob:
    """From vLLM's mapping of ids to log-probabilities and ranks, which holds the token itself."""
    ranked = sorted(found.items(), key=lambda item: item[1].rank)
    top = tuple((i, float(one.logprob)) for i, one in ranked)
    return TokenLogprob(token_id=token, logprob=float(found[token].logprob), top=top[:n_top])


class RemoteSizes:
    """What routes ask of a runner: the model's sizes. Batches run elsewhere."""

    def __init__(self, config: ModelConfig, n_blocks: int, block_size: int) -> None:
        self.config = config
        self.n_blocks = n_blocks
        self.block_size = block_size

    def run(self, batch: Batch) -> NDArray[np.float32]:
        raise AssertionError("batches run elsewhere")


class Vllm:
    """A model in vLLM's engine, and the thread that its event loop runs in.

    Raises:
        CheckpointError: the checkpoint is not a Hugging Face folder.
        ConfigError: vLLM refuses a setting, or there are not the devices for it.
        MissingExtra: vLLM is not installed.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        reader = checkpoint.open(resolve(path))
        if reader.kind != "hf":
            raise CheckpointError(
                f"{path}: vLLM reads Hugging Face folders, and this is a "
                f"{reader.kind.upper() if reader.kind == 'gguf' else 'Meta'} checkpoint",
                hint=f"codellama convert {path} NEW_FOLDER, and serve that",
            )
        self.max_seq_len = settings.max_seq_len or reader.config.max_seq_len
        self._thread = LoopThread("vllm")
        try:
            self._llm, make_params = self._thread.run(self._start(reader, settings))
        except BaseException:
            self._thread.close()
            raise
        tokenizer = reader.tokenizer()
        never = never_drawn(tokenizer)
        never += range(tokenizer.n_vocab, reader.config.vocab_size)  # rows that no piece belongs to
        cache = self._llm.vllm_config.cache_config
        sizes = RemoteSizes(reader.config, cache.num_gpu_blocks, cache.block_size)
        chat_form = reader.chat_form
        if chat_form == "step" and tokenizer.step_id is None:
            chat_form = None
        self.model = Model(
            runner=sizes,
            tokenizer=tokenizer,
            plan=EnginePlan(
                max_seq_len=self.max_seq_len,
                n_blocks=sizes.n_blocks,
                block_size=sizes.block_size,
                max_num_seqs=settings.max_num_seqs,
                step_tokens=max(512, settings.max_num_seqs),
                speculation="off",
            ),
            eos_ids=reader.generation.eos_ids,
            chat_form=chat_form,
            notes=tuple(reader.notes),
        )
        source = VllmSource(self._llm, make_params, dict.fromkeys(never, -100.0))
        self.engine = AsyncSteps(
            source,
            self._thread.loop,
            tokenizer,
            self.model.plan,
            n_ids=min(tokenizer.n_vocab, reader.config.vocab_size),
        )

    async def _start(self, reader: Reader, settings: Settings) -> tuple[Any, Callable[..., Any]]:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers of each use
        try:
            from vllm import SamplingParams as VllmParams
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.sampling_params import RequestOutputKind
            from vllm.v1.engine.async_llm import AsyncLLM
        except ModuleNotFoundError as error:
            raise MissingExtra("the engine vllm", "vllm") from error
        keywords = arguments(reader.path, settings, self.max_seq_len, stored_type(reader))
        if current_platform.is_cpu():
            keywords |= {"kv_cache_memory_bytes": _CPU_CACHE_BYTES, "enforce_eager": True}
        elif spans_machines(settings, current_platform.device_count()):
            connect()  # where vLLM starts the processes that hold the other parts
            keywords["distributed_executor_backend"] = "ray"
        try:
            llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**keywords))
        except (ValueError, RuntimeError) as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"vLLM cannot run {reader.path}: {text[-1]}",
                hint="its own messages above say more",
            ) from error

        def make_params(**keywords: Any) -> Any:
            return VllmParams(**keywords, output_kind=RequestOutputKind.DELTA)

        return llm, make_params

    def close(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown()
        self._thread.close()


def spans_machines(settings: Settings, n_gpus: int) -> bool:
    """Whether an engine needs more GPUs than the `n_gpus` of this machine."""
    return settings.tensor_parallel * settings.pipeline_parallel > n_gpus


_TYPES = {Format.F32: "float32", Format.F16: "float16", Format.BF16: "bfloat16"}


def stored_type(reader: Reader) -> str:
    """What most of a folder's weights are stored as, by vLLM's name."""
    counts: Counter[str] = Counter()
    for info in reader.infos.values():
        counts[_TYPES[info.format]] += math.prod(info.shape)
    ((name, _),) = counts.most_common(1)
    return name


def arguments(path: Path, settings: Settings, max_seq_len: int, dtype: str) -> dict[str, Any]:
    """The keywords of vLLM's `AsyncEngineArgs`."""
    return {
        "model": str(path),
        "dtype": dtype,  # vLLM's own choice makes 16 bits of 32
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the folder's: temperatures and ends are ours
        "max_model_len": max_seq_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_logprobs": MAX_LOGPROBS,
        "logprobs_mode": "raw_logprobs",  # before temperature, penalties and biases, as ours are
        "enable_prefix_caching": True,
        "tensor_parallel_size": settings.tensor_parallel,
        "pipeline_parallel_size": settings.pipeline_parallel,
        "disable_log_stats": True,
    }


_OWN_ONLY = ("threads", "kv_cache", "draft_model")


def check(settings: Settings) -> None:
    """Refuses settings that only our own engine honours."""
    for name in _OWN_ONLY:
        if getattr(settings, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is for codellama's own engine, and this one is vllm")
    if settings.adapters:
        raise ConfigError(
            "the engine vllm serves no LoRA adapters here",
            hint="leave out --lora, or take the engine cpu",
        )
    if len(settings.models) > 1:
        raise ConfigError(
            f"the engine vllm serves one model, and {len(settings.models)} are named",
            hint="start a server for each, on ports of their own",
        )


def serve(settings: Settings, keys: Sequence[str], version: str, say: run.Say) -> None:
    """Serves a model by vLLM until a signal ends it; errors are those of `server.run.serve`."""
    from codellama.cluster.engines import loaded

    with ExitStack() as stack:
        run.serve(
            settings,
            keys,
            version,
            say,
            load=lambda settings: stack.enter_context(loaded(settings)),
        )
