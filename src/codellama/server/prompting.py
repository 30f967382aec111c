"""From checked bodies to prompts and sampling parameters."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Order, Prompt, chat_prompt, completion_prompt, infill_prompt
from codellama.server.holes import Hole, hole
from codellama.server.refusals import Refusal
from codellama.server.schema import Drawing, Message, ResponseFormat
from codellama.server.served import Served
from codellama.server.settings import Settings
from codellama.server.web import Call
from codellama.text.infill_text import InfillText, find_infill
from codellama.text.tokenizer import Tokenizer
from codellama.text.trim import room_for_prompt, trim

log = logging.getLogger("codellama.server")

CHARS_PER_TOKEN = 8  # a prompt with more characters for each token of context is not looked at


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How a hole is told: in which order (None: what costs fewer tokens), whether what the cache
    holds has a say in that, and whether nothing but the texts says what the reply begins with."""

    order: Order | None = None
    by_cache: bool = True
    is_free: bool = True

    def hole(self, tokenizer: Tokenizer, prefix: str, suffix: str) -> Hole:
        """The prompt for what belongs between two texts."""
        found = hole(tokenizer, prefix, suffix, self.order, is_free=self.is_free)
        return found if self.by_cache else found.settled(lambda ids: 0)


_AS_IT_COSTS = Telling()


def params(
    settings: Settings,
    body: Drawing,
    *,
    max_tokens: int | None,
    logprobs: int | None = None,
    seed: int | None = None,
) -> SamplingParams:
    """The sampling of an OpenAI-like body; what it leaves open is the server's default."""
    return drawn(
        settings,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        max_tokens=max_tokens,
        stop=body.stop,
        seed=body.seed if seed is None else seed,
        logit_bias=_biases(body.logit_bias),
        logprobs=logprobs,
        ignore_eos=body.ignore_eos,
    )


def drawn(settings: Settings, **fields: Any) -> SamplingParams:
    """Sampling parameters of those fields that are not None.

    A `top_k` of 0 or less is off, `max_tokens` below 0 goes to the end of the context, and a
    negative seed is taken as its 64 bits.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    given.setdefault("temperature", settings.temperature)
    given.setdefault("top_p", settings.top_p)
    if given.get("top_k", 1) < 1:
        del given["top_k"]
    if "seed" in given:
        given["seed"] &= (1 << 64) - 1
    max_tokens = given.get("max_tokens")
    given["max_tokens"] = None if max_tokens is None or max_tokens < 0 else max(1, max_tokens)
    return SamplingParams(**given)


def _biases(biases: dict[str, float] | None) -> dict[int, float]:
    found = {}
    for token, bias in (biases or {}).items():
        if not token.isascii() or not token.isdigit() or len(token) > 10:
            raise Refusal(
                400, "`logit_bias` has a key that is not a token id", code="invalid_value",
                param="logit_bias",
            )  # fmt: skip
        found[int(token)] = bias
    return found


def check_length(served: Served, n_chars: int) -> None:
    """Refuses texts that cannot fit before they are tokenised."""
    most = CHARS_PER_TOKEN * served.max_seq_len
    if n_chars > most:
        raise Refusal(
            400,
            f"the prompt has {n_chars} characters; a context of {served.max_seq_len} tokens is not "
            f"tried with more than {most}",
            code="context_length_exceeded",
        )


def check_fits(served: Served, prompts: Sequence[Prompt], max_tokens: int | None) -> None:
    """Refuses a prompt that leaves no room for the answer that was asked for by number."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if max_tokens is not None and longest + max_tokens > served.max_seq_len:
        raise Refusal(
            400,
            f"the prompt has {longest} tokens and max_tokens is {max_tokens}, "
            f"together {longest + max_tokens}; this model's context is {served.max_seq_len}",
            code="context_length_exceeded",
            param="max_tokens",
        )


def telling(
    call: Call,
    order: str | None,
    *,
    seed: int | None = None,
    wanted: ResponseFormat | None = None,
) -> Telling:
    """How a request's hole is told: as it says, else as the server's settings say.

    A reply with a seed is to come again the same, so it is told as if the cache held nothing.
    """
    asked = order or call.state.settings.infill_order
    is_free = wanted is None or wanted.type == "text"
    if asked == "auto":
        return Telling(by_cache=seed is None, is_free=is_free)
    return Telling(order="spm" if asked == "spm" else "psm", is_free=is_free)


async def text_prompt(
    call: Call, served: Served, text: str, told: Telling = _AS_IT_COSTS
) -> Prompt:
    """A text to go on with, or the hole it spells in the family's infilling markers."""
    check_length(served, len(text))
    if call.state.settings.infill_text and served.has_infill:
        found = find_infill(text)
        if found is not None:
            _report(call, found)
            return await infill(call, served, found.prefix, found.suffix, told)
    tokenizer, eos_ids = served.model.tokenizer, served.model.eos_ids
    prompt = await call.state.off_loop(
        len(text), lambda: completion_prompt(tokenizer, text, eos_ids)
    )
    return with_stop_ids(prompt, [tokenizer.eot_id])  # it is no text to show


def _report(call: Call, found: InfillText) -> None:
    header = (b"x-codellama-prompt", b"infill-text-cut" if found.is_cut else b"infill-text")
    if header not in call.headers:
        call.headers.append(header)
    if found.n_suffix_marks > 1:
        log.info("a prompt spells <SUF> %d times; split at the last", found.n_suffix_marks)


def ids_prompt(served: Served, ids: Sequence[int]) -> Prompt:
    """Ids to go on with, as they are."""
    tokenizer = served.model.tokenizer
    stop_ids = frozenset(served.model.eos_ids or (tokenizer.eos_id,))
    return with_stop_ids(Prompt(ids=tuple(ids), stop_ids=stop_ids, bare=True), [tokenizer.eot_id])


async def infill(
    call: Call, served: Served, prefix: str, suffix: str, told: Telling = _AS_IT_COSTS
) -> Hole:
    """A hole between two texts, as ids."""
    n_chars = len(prefix) + len(suffix)
    check_length(served, n_chars)
    tokenizer = served.model.tokenizer
    return await call.state.off_loop(n_chars, lambda: told.hole(tokenizer, prefix, suffix))


async def trimmed_infill(
    call: Call, served: Served, prefix: str, suffix: str, max_tokens: int | None, told: Telling
) -> tuple[Hole, bool]:
    """A hole, of which what is far away is left out where the context is too small for it.

    Where it is cut stays the same while the cursor moves on a little, so that the cache still holds
    what comes after the cut. Returns the prompt and whether something was left out.
    """
    tokenizer, most = served.model.tokenizer, CHARS_PER_TOKEN * served.max_seq_len
    if not served.has_infill:
        infill_prompt(tokenizer, "", "")  # says so
    near = prefix[-most:], suffix[:most]
    first = max(0, len(prefix) - most)  # where in the prefix the near part begins
    room = room_for_prompt(served.max_seq_len, max_tokens)

    def work() -> tuple[Hole, bool]:
        fit = trim(near, tokenizer, room, allow_control=False, may_drop=True, coarse_from=first)
        was_cut = fit.n_dropped > 0 or len(prefix) > most or len(suffix) > most
        return told.hole(tokenizer, fit.prefix, fit.suffix), was_cut

    return await call.state.off_loop(sum(map(len, near)), work)


async def chat(call: Call, served: Served, messages: Sequence[Message]) -> Prompt:
    """A conversation; a last message of the assistant is the beginning of the reply."""
    turns = [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        }
        for message in messages
    ]
    n_chars = sum(len(turn["content"]) for turn in turns)
    check_length(served, n_chars)
    tokenizer, form = served.model.tokenizer, served.model.chat_form

    def work() -> Prompt:
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            return chat_prompt(tokenizer, turns, form)
        prompt = chat_prompt(tokenizer, turns[:-1], form)
        # As in training: in the [INST] form a space stands before the reply.
        begun = (" " if form == "inst" else "") + turns[-1]["content"].lstrip()
        ids = (*prompt.ids, *tokenizer.encode_bare(begun))
        return dataclasses.replace(prompt, ids=ids, bare=True)

    return await call.state.off_loop(n_chars, work)


def with_stop_ids(prompt: Prompt, ids: Iterable[int | None] | None) -> Prompt:
    """The same prompt, whose reply also ends at these ids."""
    more = frozenset(i for i in ids or () if i is not None)
    return dataclasses.replace(prompt, stop_ids=prompt.stop_ids | more) if more else prompt
