"""Stand-ins without weights: a tokenizer of bytes, a model made of a hash, a sampler in NumPy."""

from __future__ import annotations

import codecs
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from codellama.engine.llm import LLM
from codellama.engine.plan import EnginePlan
from codellama.model.config import ModelConfig
from codellama.runners import Batch
from codellama.text.beginnings import Beginnings
from codellama.text.tokenizer import Tokenizer

_MASK = (1 << 64) - 1
_BYTES = 3  # id of the byte 0, as in the family's own vocabularies

Script = Callable[[tuple[int, ...]], int | None]


class ByteTokenizer:
    """One token per byte of UTF-8, with the family's habits: control ids and a leading space."""

    n_vocab = 264
    unk_id, bos_id, eos_id = 0, 1, 2
    prefix_id, suffix_id, middle_id, eot_id, step_id = 259, 260, 261, 262, 263
    control_ids = frozenset((0, 1, 2, 259, 260, 261, 262, 263))
    has_infill = True

    def encode(
        self, text: str, bos: bool = False, eos: bool = False, *, allow_control: bool = False
    ) -> list[int]:
        ids = self.encode_bare(" " + text if text else "")
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def encode_bare(self, text: str, *, allow_control: bool = False) -> list[int]:
        return [_BYTES + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return self._whole(ids, bare=False)

    def decode_bare(self, ids: Sequence[int]) -> str:
        return self._whole(ids, bare=True)

    def _whole(self, ids: Sequence[int], *, bare: bool) -> str:
        text = b"".join(self.token_bytes(i) for i in ids).decode(errors="replace")
        return text if bare else text.removeprefix(" ")

    def piece(self, token_id: int) -> str:
        return f"<{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id - _BYTES]) if _BYTES <= token_id < _BYTES + 256 else b""

    @property
    def beginnings(self) -> Beginnings:
        return Beginnings({i: self.token_bytes(i) for i in range(self.n_vocab)})

    def stream_decoder(self, *, bare: bool) -> _ByteDecoder:
        return _ByteDecoder(self, bare=bare)


class _ByteDecoder:
    def __init__(self, tokenizer: ByteTokenizer, *, bare: bool) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._may_strip = not bare

    def push(self, token_id: int) -> str:
        return self._show(self._decoder.decode(self._tokenizer.token_bytes(token_id)))

    def finish(self) -> str:
        return self._show(self._decoder.decode(b"", final=True))

    def _show(self, text: str) -> str:
        if text and self._may_strip:
            self._may_strip = False
            return text.removeprefix(" ")
        return text


class ScriptedModel:
    """A runner whose logits are a hash of everything the cache holds for a sequence.

    A slot keeps its token and a fingerprint of all tokens up to it, made from the slot before it as
    keys and values are. A block that is lost, mixed up, read too early or filled by somebody else
    therefore changes every later draw. Batches that break the runner's contract fail.

    `script` may name the next token outright, given all tokens so far. `fail_on` and `nan_on` are
    tokens: a sequence that holds one of them raises, or has no numbers for logits.
    """

    def __init__(
        self,
        *,
        n_blocks: int = 64,
        block_size: int = 16,
        vocab_size: int = ByteTokenizer.n_vocab,
        script: Script | None = None,
        fail_on: int | None = None,
        nan_on: int | None = None,
    ) -> None:
        self.config = ModelConfig(
            dim=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, ffn_dim=8,
            vocab_size=vocab_size, norm_eps=1e-5, rope_theta=1e4, max_seq_len=1 << 20,
        )  # fmt: skip
        self.n_blocks = n_blocks
        self.block_size = block_size
        self.script = script
        self.fail_on = fail_on
        self.nan_on = nan_on
        self.batches: list[Batch] = []
        self._tokens = np.full(n_blocks * block_size, -1, np.int32)
        self._prints = np.zeros(n_blocks * block_size, np.uint64)
        self._noise = np.random.default_rng(7).normal(0, 3, (1 << 16) + vocab_size)
        self._noise = self._noise.astype(np.float32)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        self._check(batch)
        self.batches.append(batch)
        rows = {}
        for s in range(len(batch.context_lens)):
            begin, end = batch.seq_starts[s : s + 2]
            length = int(batch.context_lens[s])
            seen = np.arange(length)
            table = batch.block_tables[s]
            slots = table[seen // self.block_size] * self.block_size + seen % self.block_size
            if self.fail_on is not None and self.fail_on in batch.tokens[begin:end]:
                raise RuntimeError("the device is on fire")
            first = length - int(end - begin)
            above = int(self._prints[slots[first - 1]]) if first else 0
            for position, token in zip(range(first, length), batch.tokens[begin:end], strict=True):
                above = _fingerprint(above, int(token))
                self._tokens[slots[position]] = token
                self._prints[slots[position]] = above
            for row in batch.logit_rows:
                if begin <= row < end:
                    upto = slots[: batch.positions[row] + 1]
                    rows[int(row)] = self._logits(self._tokens[upto], self._prints[upto])
        out = np.empty((len(batch.logit_rows), self.config.vocab_size), np.float32)
        for i, row in enumerate(batch.logit_rows):
            out[i] = rows[int(row)]
        return out

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits after these tokens, computed from nothing: what every schedule must give."""
        prints, above = [], 0
        for token in tokens:
            above = _fingerprint(above, token)
            prints.append(above)
        return self._logits(np.array(tokens, np.int32), np.array(prints, np.uint64))

    def greedy(self, tokens: Sequence[int], n: int, stop: Sequence[int] = ()) -> list[int]:
        """The reference's loop: the likeliest token again and again, until a stop id or `n`."""
        reply: list[int] = []
        while len(reply) < n:
            token = int(self.logits_after([*tokens, *reply]).argmax())
            if token in stop:
                break
            reply.append(token)
        return reply

    def _logits(self, tokens: NDArray[np.int32], prints: NDArray[np.uint64]) -> NDArray[np.float32]:
        if self.nan_on is not None and self.nan_on in tokens:
            return np.full(self.config.vocab_size, np.nan, np.float32)
        said = None if self.script is None else self.script(tuple(tokens.tolist()))
        if said is not None:
            row = np.zeros(self.config.vocab_size, np.float32)
            row[said] = 50
            return row
        digest = hashlib.blake2b(prints.tobytes() + tokens.tobytes(), digest_size=2).digest()
        start = int.from_bytes(digest, "little")
        return self._noise[start : start + self.config.vocab_size]

    def _check(self, batch: Batch) -> None:
        n_seqs = len(batch.context_lens)
        arrays = vars(batch)
        assert all(a.dtype == np.int32 for a in arrays.values()), {
            k: a.dtype for k, a in arrays.items()
        }
        assert n_seqs
        assert batch.seq_starts[0] == 0
        assert batch.seq_starts[-1] == len(batch.tokens) == len(batch.positions)
        assert (np.diff(batch.seq_starts) > 0).all(), "a sequence without tokens"
        assert ((batch.tokens >= 0) & (batch.tokens < self.config.vocab_size)).all()
        written: set[int] = set()
        for s in range(n_seqs):
            begin, end = batch.seq_starts[s : s + 2]
            length = int(batch.context_lens[s])
            expected = np.arange(length - (end - begin), length)
            assert (batch.positions[begin:end] == expected).all(), "positions are not consecutive"
            table = batch.block_tables[s, : -(-length // self.block_size)]
            assert ((table >= 0) & (table < self.n_blocks)).all(), f"no such block: {table}"
            assert len(set(table.tolist())) == len(table), "a block twice in one table"
            writes = set(table[np.unique(expected // self.block_size)].tolist())
            assert not writes & written, "two sequences write the same block"
            written |= writes
        for s in range(n_seqs):
            begin, end = batch.seq_starts[s : s + 2]
            first = int(batch.context_lens[s]) - int(end - begin)
            read_only = batch.block_tables[s, : first // self.block_size].tolist()
            assert not set(read_only) & written, "a block is written while another reads it"
        assert len(set(batch.logit_rows.tolist())) == len(batch.logit_rows)
        assert all(0 <= row < len(batch.tokens) for row in batch.logit_rows)


def _fingerprint(above: int, token: int) -> int:
    x = (above * 0x9E3779B97F4A7C15 + token + 1) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    return x ^ (x >> 27)


class ReferenceKernel:
    """Sampling as its contract says it, row by row in NumPy."""

    def sample(self, logits: Any, *arrays: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        (temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, counter,
         history, offsets, n_prompt, bias_ids, bias_values, bias_offsets) = arrays  # fmt: skip
        ids, logprobs = [], []
        for r, raw in enumerate(logits):
            x = raw.astype(np.float64)
            if np.isnan(x).any():
                ids.append(-1)
                logprobs.append(np.nan)
                continue
            for b in range(bias_offsets[r], bias_offsets[r + 1]):
                x[bias_ids[b]] += bias_values[b]
            seen = history[offsets[r] : offsets[r + 1]]
            for token in set(seen.tolist()):
                x[token] = x[token] / repetition[r] if x[token] > 0 else x[token] * repetition[r]
            reply = seen[n_prompt[r] :]
            for token in set(reply.tolist()):
                x[token] -= presence[r] + frequency[r] * (reply == token).sum()
            token = self._pick(
                x, temperature[r], top_k[r], top_p[r], min_p[r], int(seed[r]), int(counter[r])
            )
            ids.append(token)
            logprobs.append(log_softmax(raw)[token])
        return np.array(ids, np.int32), np.array(logprobs, np.float32)

    def _pick(
        self, x: NDArray[np.float64], temperature: float, top_k: int, top_p: float, min_p: float,
        seed: int, counter: int,
    ) -> int:  # fmt: skip
        if temperature == 0:
            return int(x.argmax())
        p = np.exp((x - x.max()) / float(temperature))
        p /= p.sum()
        order = np.argsort(-p, kind="stable")
        p = p[order]
        keep = (np.cumsum(p) - p <= top_p) & (p >= min_p * p[0])
        if top_k:
            keep[top_k:] = False
        keep[0] = True
        kept = np.cumsum(p[keep])
        u = _fingerprint(_fingerprint(seed & _MASK, 0), counter) / 2**64
        return int(order[keep][min(np.searchsorted(kept, u * kept[-1], "right"), len(kept) - 1)])

    def top_logprobs(self, logits: Any, k: int) -> tuple[Any, Any]:
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :k].astype(np.int32)
        rows = np.stack([log_softmax(row) for row in logits])
        return ids, np.take_along_axis(rows, ids, 1).astype(np.float32)


class Teacher:
    """A drafter that knows how replies go on, from `known`, and is wrong as often as `errors` says.

    Wrong guesses are any of `wrong_ids`. With `failures` it raises instead as often.
    """

    cost = 0.0

    def __init__(
        self,
        known: Callable[[Any], Sequence[int]],
        *,
        errors: float = 0.2,
        failures: float = 0.0,
        wrong_ids: Sequence[int] = range(ByteTokenizer.n_vocab),
        seed: int = 0,
    ) -> None:
        self._known = known
        self._errors = errors
        self._failures = failures
        self._wrong_ids = wrong_ids
        self._chance = random.Random(seed)
        self.n_proposed = 0

    def odds(self, sequence: Any) -> float:
        return 0.9

    def propose(self, wanted: list[tuple[Any, int]]) -> list[tuple[int, ...]]:
        if self._chance.random() < self._failures:
            raise RuntimeError("the teacher is ill")
        return [self._guess(sequence, n) for sequence, n in wanted]

    def forget(self, sequence: Any) -> None:
        pass

    def _guess(self, sequence: Any, n: int) -> tuple[int, ...]:
        at, reply = sequence.n_generated, self._known(sequence)
        guess = [*reply[at : at + n], *self._chance.choices(self._wrong_ids, k=n)][:n]
        for i in range(n):
            if self._chance.random() < self._errors:
                guess[i] = self._chance.choice(self._wrong_ids)
        self.n_proposed += n
        return tuple(guess)


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    x = row.astype(np.float64)
    x -= x.max()
    return cast("NDArray[np.float64]", x - np.log(np.exp(x).sum()))


def recite(replies: Mapping[str, str], tokenizer: ByteTokenizer | None = None) -> Script:
    """A script that answers each prompt of `complete` with its reply and then ends it."""
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    known = {
        tuple(tokenizer.encode(prompt, bos=True)): [
            *tokenizer.encode_bare(reply), tokenizer.eos_id
        ]
        for prompt, reply in replies.items()
    }  # fmt: skip

    def script(tokens: tuple[int, ...]) -> int | None:
        for prompt, reply in known.items():
            if tokens[: len(prompt)] == prompt and len(tokens) < len(prompt) + len(reply):
                return reply[len(tokens) - len(prompt)]
        return None

    return script


def fake_llm(
    model: ScriptedModel | None = None,
    *,
    max_seq_len: int = 512,
    max_num_seqs: int = 16,
    step_tokens: int = 512,
    share_prefixes: bool = True,
    chat_form: Any = "inst",
    tokenizer: Any = None,
    drafters: tuple[Any, ...] = (),
    **plan_fields: Any,
) -> LLM:
    """An `LLM` over a scripted model; what it writes is a hash of what it read."""
    model = ScriptedModel(n_blocks=256) if model is None else model
    tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
    plan = EnginePlan(
        max_seq_len=max_seq_len,
        n_blocks=model.n_blocks,
        block_size=model.block_size,
        max_num_seqs=max_num_seqs,
        step_tokens=step_tokens,
        share_prefixes=share_prefixes,
        **plan_fields,
    )
    return LLM(
        model, cast(Tokenizer, tokenizer), plan, kernel=ReferenceKernel(), drafters=drafters,
        eos_ids=(tokenizer.eos_id,), chat_form=chat_form,
    )  # fmt: skip
