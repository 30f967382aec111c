"""A model and everything around it, in a few calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from codellama.engine.completion import Completion, Piece
from codellama.engine.draft import Drafter
from codellama.engine.engine import Engine
from codellama.engine.loading import load_model
from codellama.engine.params import SamplingParams
from codellama.engine.plan import DRAFT_TOKENS, EnginePlan, Speculative
from codellama.engine.prompts import (
    ChatForm,
    Messages,
    Order,
    Prompt,
    chat_prompt,
    completion_prompt,
    infill_prompt,
)
from codellama.engine.sampler import kernel_for
from codellama.engine.shared import SharedEngine
from codellama.errors import ConfigError
from codellama.model.config import ModelConfig
from codellama.runners import EngineName, Runner
from codellama.runners.sampling import SamplingKernel
from codellama.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from codellama.sandbox import Sandbox
    from codellama.solve import Judge, Solved

Texts = list[str] | tuple[str, ...]


class LLM:
    """A loaded model that completes, infills and chats.

    One text gives one `Completion`, a list of texts a list of them, computed together; with `n`,
    each becomes a list of n replies that share one reading of the prompt. Replies go to the end of
    the context at most: `max_tokens` that reach beyond it end there, with finish reason "length".

    Calls from several threads, and streams read in turns, share the engine step by step. Ctrl-C and
    a stream that is closed early abort their own requests and free what they held.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        plan: EnginePlan,
        *,
        kernel: SamplingKernel | None = None,
        drafters: tuple[Drafter, ...] = (),
        eos_ids: tuple[int, ...] = (),
        chat_form: ChatForm | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        if chat_form == "step" and tokenizer.step_id is None:
            raise ConfigError("chat form 'step' needs a <step> token, and this model has none")
        self.config: ModelConfig = runner.config
        self.tokenizer = tokenizer
        self.plan = plan
        self.chat_form = chat_form
        self.notes = notes
        self._eos_ids = eos_ids
        if kernel is None:
            kernel = kernel_for(runner)
        self._engine = SharedEngine(Engine(runner, tokenizer, plan, kernel, drafters=drafters))

    @classmethod
    def load(
        cls,
        path: str | Path = "nano",
        *,
        engine: EngineName | None = None,
        max_seq_len: int | None = None,
        max_num_seqs: int = 16,
        n_threads: int | None = None,
        kv_cache: str | None = None,
        device: str | None = None,
        weights: str | None = None,
        chat_form: ChatForm | None = None,
        share_prefixes: bool = True,
        speculation: Speculative = "lookup",
        draft_model: str | Path | None = None,
        draft_tokens: int = DRAFT_TOKENS,
    ) -> Self:
        """Loads a checkpoint.

        Args:
            path: "nano", a Hugging Face or Meta directory, a .gguf file, or a hub name such as
                "codellama/CodeLlama-7b-hf".
            engine: "cpu" runs the native core, "torch" PyTorch; None takes the core, or PyTorch
                where `device` or `weights` ask for it.
            max_seq_len: tokens of prompt and reply together; None keeps the model's context.
            max_num_seqs: replies computed at the same time, at most.
            n_threads: threads of the native core; None takes one per physical core.
            kv_cache: how keys and values are kept: "f32", "f16" or "q8_0", and with PyTorch "bf16"
                or "fp8"; None takes f16 beside weights in a block format and f32 beside others,
                and on a GPU the type of its activations.
            device: PyTorch's device: "cuda" for a GPU.
            weights: what PyTorch keeps matrices in: "f32", "f16", "bf16", "int8", "int4" or "fp8";
                None keeps block formats as they are, and takes the others as plain numbers.
            chat_form: the form of conversations, where the files do not say or are wrong.
            share_prefixes: whether prompts reuse what the cache still holds of earlier ones.
            speculation: "lookup" guesses ahead from the text itself where that pays, "off" never;
                replies are the same.
            draft_model: a smaller model of the same vocabulary, which guesses where the text does
                not repeat itself.
            draft_tokens: guesses in one step, at most.

        Raises:
            CheckpointError: there is no such model, or its files are not what they should be.
            ConfigError: a setting is out of range.
            OutOfMemory: the cache for one full context does not fit.
        """
        model = load_model(
            path,
            engine=engine,
            max_seq_len=max_seq_len,
            max_num_seqs=max_num_seqs,
            n_threads=n_threads,
            kv_cache=kv_cache,
            device=device,
            weights=weights,
            chat_form=chat_form,
            share_prefixes=share_prefixes,
            speculation=speculation,
            draft_model=draft_model,
            draft_tokens=draft_tokens,
        )
        return cls(
            model.runner,
            model.tokenizer,
            model.plan,
            drafters=model.drafters,
            eos_ids=model.eos_ids,
            chat_form=model.chat_form,
            notes=model.notes,
        )

    @property
    def max_seq_len(self) -> int:
        """Tokens of prompt and reply together, at most."""
        return self.plan.max_seq_len

    @property
    def has_infill(self) -> bool:
        """Whether the model's vocabulary has the pieces that infilling needs."""
        return self.tokenizer.has_infill

    def completion_ids(self, prompt: str, *, allow_control: bool = False) -> tuple[int, ...]:
        """The ids that `complete` runs for a prompt."""
        return self._completion(prompt, allow_control).ids

    def infill_ids(
        self, *, prefix: str, suffix: str, order: Order = "psm", allow_control: bool = False
    ) -> tuple[int, ...]:
        """The ids that `infill` runs for a hole."""
        return self._infill(prefix, suffix, order, allow_control).ids

    def chat_ids(self, messages: Messages, *, allow_control: bool = False) -> tuple[int, ...]:
        """The ids that `chat` runs for a conversation."""
        return self._chat(messages, allow_control).ids

    @overload
    def complete(
        self, prompt: str, params: SamplingParams | None = None, *, n: None = None,
        allow_control: bool = False,
    ) -> Completion: ...  # fmt: skip
    @overload
    def complete(
        self, prompt: str, params: SamplingParams | None = None, *, n: int,
        allow_control: bool = False,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    def complete(
        self, prompt: Texts, params: SamplingParams | None = None, *, n: None = None,
        allow_control: bool = False,
    ) -> list[Completion]: ...  # fmt: skip
    @overload
    def complete(
        self, prompt: Texts, params: SamplingParams | None = None, *, n: int,
        allow_control: bool = False,
    ) -> list[list[Completion]]: ...  # fmt: skip
    def complete(
        self,
        prompt: str | Texts,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        allow_control: bool = False,
    ) -> Any:
        """Continues a text, or each text of a list.

        The prompt followed by the reply is the text that all ids decode to. `allow_control` lets
        the prompt spell control tokens, such as ` <PRE>`, as it can in the reference.

        Raises:
            ContextTooLong: a prompt leaves no room for an answer; nothing has run then.
            PromptError: a text cannot become a prompt.
            RequestError: the request can never be served.
        """
        many = isinstance(prompt, (list, tuple))
        texts: Any = prompt if many else [prompt]
        prompts = [self._completion(text, allow_control) for text in texts]
        replies = self._run(prompts, params, n)
        return replies if many else replies[0]

    @overload
    def infill(
        self, *, prefix: str, suffix: str, params: SamplingParams | None = None,
        order: Order = "psm", n: None = None, allow_control: bool = False,
    ) -> Completion: ...  # fmt: skip
    @overload
    def infill(
        self, *, prefix: str, suffix: str, params: SamplingParams | None = None,
        order: Order = "psm", n: int, allow_control: bool = False,
    ) -> list[Completion]: ...  # fmt: skip
    def infill(
        self,
        *,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        order: Order = "psm",
        n: int | None = None,
        allow_control: bool = False,
    ) -> Completion | list[Completion]:
        """Writes what belongs between two texts: prefix + reply + suffix is the whole.

        Raises:
            RequestError: the model was not trained to infill, or as for `complete`.
        """
        prompt = self._infill(prefix, suffix, order, allow_control)
        found: Completion | list[Completion] = self._run([prompt], params, n)[0]
        return found

    @overload
    def chat(
        self, messages: Messages, params: SamplingParams | None = None, *, n: None = None,
        allow_control: bool = False,
    ) -> Completion: ...  # fmt: skip
    @overload
    def chat(
        self, messages: Messages, params: SamplingParams | None = None, *, n: int,
        allow_control: bool = False,
    ) -> list[Completion]: ...  # fmt: skip
    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        allow_control: bool = False,
    ) -> Completion | list[Completion]:
        """Answers a conversation.

        Messages are mappings with `role` (system, user or assistant) and `content`; the last one is
        the user's.

        Raises:
            RequestError: the model has no chat form, or as for `complete`.
            PromptError: roles are out of order, or a text spells one of the form's own marks.
        """
        prompt = self._chat(messages, allow_control)
        found: Completion | list[Completion] = self._run([prompt], params, n)[0]
        return found

    def stream(
        self, prompt: str, params: SamplingParams | None = None, *, allow_control: bool = False
    ) -> Iterator[Piece]:
        """Continues a text piece by piece; see `Piece`. Errors as for `complete`, at once."""
        return self._stream(self._completion(prompt, allow_control), params)

    def stream_infill(
        self,
        *,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        order: Order = "psm",
        allow_control: bool = False,
    ) -> Iterator[Piece]:
        """Fills a hole piece by piece. Errors as for `infill`, at once."""
        return self._stream(self._infill(prefix, suffix, order, allow_control), params)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        allow_control: bool = False,
    ) -> Iterator[Piece]:
        """Answers a conversation piece by piece. Errors as for `chat`, at once."""
        return self._stream(self._chat(messages, allow_control), params)

    def prompt(self, text: str) -> Prompt:
        """The ids that `complete` runs for a text, and where a reply to it ends."""
        return self._completion(text, allow_control=False)

    def as_they_end(
        self, requests: Iterable[tuple[Prompt, SamplingParams]]
    ) -> Iterator[tuple[int, Completion]]:
        """Runs many prompts, each with its own parameters, and gives what ends first first.

        With each completion comes its place among the requests. The engine is kept full: requests
        are taken as there is room, so an iterator of any length will do.

        Raises:
            RequestError: the next request can never be served.
        """
        return self._engine.as_they_end(requests, self.plan.max_num_seqs)

    def logprobs(self, text: str) -> tuple[float | None, ...]:
        """The natural log-probability of each token of a text; None for `<s>`, which comes first.

        Raises:
            ContextTooLong: the text does not fit.
            PromptError: it cannot be encoded.
        """
        return self._engine.score(self._completion(text, allow_control=False))

    def solve(
        self,
        task: str | None = None,
        *,
        prefix: str | None = None,
        suffix: str | None = None,
        tests: str | Judge | None = None,
        entry_point: str | None = None,
        n: int = 50,
        params: SamplingParams | None = None,
        box: Sandbox | None = None,
    ) -> Solved:
        """Draws candidates until one passes tests, which run in the sandbox.

        Args:
            task: a question for the chat form, whose answer holds code.
            prefix: instead of it, a text to go on with; with `suffix`, a hole to fill.
            suffix: the text after the hole.
            tests: assertions, or a `check` function, as `Sandbox.check` takes them; or a function
                that judges a source. None picks the candidate that most agree with, and says
                that it is unverified.
            entry_point: the function that tests are about.
            n: candidates, at most.
            params: how replies are drawn; temperatures are the search's own, from low to high.
            box: a sandbox that is open already; else one is opened for this.

        Raises:
            SandboxUnavailable: programs cannot be isolated here.
            RequestError: there is no task, or as for `complete`.
        """
        from codellama.engine.solving import solve

        return solve(
            self, task, prefix=prefix, suffix=suffix, tests=tests, entry_point=entry_point,
            n=n, params=params, box=box,
        )  # fmt: skip

    def close(self) -> None:
        """Ends what is running and lets go of the model; open streams end with reason "abort"."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _completion(self, text: str, allow_control: bool) -> Prompt:
        return completion_prompt(self.tokenizer, text, self._eos_ids, allow_control=allow_control)

    def _infill(self, prefix: str, suffix: str, order: Order, allow_control: bool) -> Prompt:
        return infill_prompt(self.tokenizer, prefix, suffix, order, allow_control=allow_control)

    def _chat(self, messages: Messages, allow_control: bool) -> Prompt:
        return chat_prompt(self.tokenizer, messages, self.chat_form, allow_control=allow_control)

    def _run(
        self, prompts: list[Prompt], params: SamplingParams | None, n: int | None
    ) -> list[Any]:
        """For each prompt its completion, or with `n` a list of them."""
        params = SamplingParams() if params is None else params
        replies = self._engine.run(prompts, params, 1 if n is None else n)
        return [one[0] for one in replies] if n is None else list(replies)

    def _stream(self, prompt: Prompt, params: SamplingParams | None) -> Iterator[Piece]:
        return self._engine.stream(prompt, SamplingParams() if params is None else params)
