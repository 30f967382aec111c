"""A model in this process: every sample of every problem in one continuous batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from codellama.checkpoint.hub import resolve
from codellama.engine.completion import Completion
from codellama.engine.llm import LLM
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt, chat_prompt, infill_prompt
from codellama.errors import CodeLlamaError
from codellama.eval.sources import Request
from codellama.eval.suite import Ask, Reply

_NUMBERS = ("engine", "device", "weights", "kv_cache")
_WEIGHTS = (".safetensors", ".gguf", ".pth")


class EngineSource:
    """An `LLM` as a source.

    Args:
        path: where it was loaded from, for its name and digest.
        options: keywords that it was loaded with. What computes, and in which numbers, is part of
            what the results depend on.
    """

    def __init__(
        self, llm: LLM, path: str | Path, options: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._llm = llm
        self._path = path
        self._computed = {key: options[key] for key in _NUMBERS if options.get(key) is not None}
        self._sha256: str | None = None

    @property
    def name(self) -> str:
        return Path(self._path).name

    def facts(self) -> dict[str, Any]:
        if self._sha256 is None:
            self._sha256 = model_sha256(self._path)
        config = self._llm.config
        return {
            "name": self.name,
            "sha256": self._sha256,
            "parameters": config.n_params,
            "context": self._llm.max_seq_len,
            "family": _family(self._llm),
            **({"computed": self._computed} if self._computed else {}),
        }

    def count(self, text: str) -> int:
        return len(self._llm.tokenizer.encode(text))

    def close(self) -> None:
        self._llm.close()

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        coming = iter(requests)
        first = next(coming, None)
        if first is None:
            return
        coming = chain([first], coming)
        if first.ask.kind == "score":
            for request in coming:
                yield request, self._score(request.ask)
            return
        taken: list[Request] = []
        refused: list[tuple[Request, Reply]] = []

        def prompts() -> Iterator[tuple[Prompt, SamplingParams]]:
            for request in coming:
                try:
                    made = self._prompt(request)
                except CodeLlamaError as error:
                    refused.append((request, Reply(finish="error", error=str(error))))
                    continue
                taken.append(request)
                yield made

        for place, completion in self._llm.as_they_end(prompts()):
            yield from refused
            refused.clear()
            yield taken[place], _reply(completion)
        yield from refused

    def _prompt(self, request: Request) -> tuple[Prompt, SamplingParams]:
        ask, sampling = request.ask, request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens or ask.max_tokens,
            stop=ask.stop,
            seed=request.seed,
        )
        llm = self._llm
        if ask.kind == "infill":
            prompt = infill_prompt(llm.tokenizer, ask.text, ask.suffix, ask.order)
        elif ask.kind == "chat":
            messages = [{"role": "user", "content": ask.text}]
            prompt = chat_prompt(llm.tokenizer, messages, llm.chat_form)
        else:
            prompt = llm.prompt(ask.text)
        room = llm.max_seq_len - min(params.max_tokens or 1, llm.max_seq_len // 2)
        if ask.cut == "start" and len(prompt.ids) > room:
            ids = (prompt.ids[0], *prompt.ids[len(prompt.ids) - room + 1 :])
            prompt = Prompt(ids=ids, stop_ids=prompt.stop_ids, bare=prompt.bare)
        if len(prompt.ids) >= llm.max_seq_len:
            raise CodeLlamaError(
                f"the prompt has {len(prompt.ids)} tokens and the context is {llm.max_seq_len}"
            )
        return prompt, params

    def _score(self, ask: Ask) -> Reply:
        text, room = ask.text, self._llm.max_seq_len - 1
        try:
            if ask.cut == "end":
                text = _beginning(self._llm, text, room)
            found = self._llm.logprobs(text)
        except CodeLlamaError as error:
            return Reply(finish="error", error=str(error))
        return Reply(
            n_tokens=len(found), logprobs=tuple(one for one in found if one is not None)
        )  # fmt: skip


def _reply(completion: Completion) -> Reply:
    return Reply(
        text=completion.text,
        finish=completion.finish_reason,
        n_tokens=len(completion.token_ids),
        error=completion.error,
    )


def _beginning(llm: LLM, text: str, room: int) -> str:
    """The longest beginning of a text, to a line's end, that has `room` tokens at most."""
    lines = text[: 16 * room].splitlines(keepends=True)
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high + 1) // 2
        if len(llm.prompt("".join(lines[:middle])).ids) <= room:
            low = middle
        else:
            high = middle - 1
    return "".join(lines[:low])


def model_sha256(path: str | Path) -> str | None:
    """The digest of a model's weight files: of the one file, or of all files' digests.

    None where the path leads to none.
    """
    place = resolve(path)
    files = (
        [place] if place.is_file() else sorted(p for p in place.glob("*") if p.suffix in _WEIGHTS)
    )
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    total = hashlib.sha256(b"".join(one.digest() for one in digests))
    return total.hexdigest() if digests else None


def _family(llm: LLM) -> str | None:
    from codellama.model.family import matches

    same = [m.name for m in matches(llm.config) if m.chat_form == llm.chat_form]
    return same[0] if len(same) == 1 else None
