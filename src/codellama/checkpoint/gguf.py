"""GGUF files of the `llama` architecture, as llama.cpp's converters write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codellama.checkpoint.files import SourceFile, open_file, quoted
from codellama.checkpoint.gguf_config import check_architecture, config_from_metadata
from codellama.checkpoint.gguf_header import Entry, Header
from codellama.checkpoint.reader import (
    ChatForm,
    GenerationDefaults,
    Kind,
    Ledger,
    TensorInfo,
    chat_form_of,
)
from codellama.checkpoint.rotary import halves_from_neighbours, is_turned
from codellama.errors import CheckpointError, ConfigError
from codellama.quant.formats import Format, Tensor

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.weight", re.ASCII)
_EMBEDDINGS = "token_embd.weight"
_HEAD = "output.weight"
_ROTARY_FACTORS = "rope_freqs.weight"

OUTER_NAMES = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOKENIZER = "tokenizer.ggml."


def open(path: Path) -> GgufReader:
    """Opens a GGUF file.

    Raises:
        ConfigError: the file asks for something this architecture does not do.
        CheckpointError: the file is damaged, incomplete, or of a number format that is not read.
    """
    return GgufReader(open_file(path))


class GgufReader:
    """A `Reader` of a GGUF file. Raises as `open` does."""

    kind: Kind = "gguf"

    def __init__(self, file: SourceFile) -> None:
        self.path = file.path
        self._file = file
        self._where = str(file.path)
        self._header = Header(file)
        check_architecture(self._header.metadata, self._where)
        entries = self._header.entries
        table = entries.get(_EMBEDDINGS)
        if table is None or len(table.shape) != 2:
            raise CheckpointError(f"{self._where}: has no matrix {_EMBEDDINGS}")
        self.config = config_from_metadata(
            self._header.metadata,
            self._where,
            vocab_size=table.shape[0],
            tied=_HEAD not in entries,
        )
        self._ledger = Ledger(self._where, self.config, len(entries))
        self._entries: dict[str, Entry] = {}
        for source, entry in entries.items():
            self._enter(source, entry)
        self._ledger.check()
        self.generation = self._read_generation()
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(entry.format, entry.shape) for name, entry in self._entries.items()
        }
        tied = ("the output matrix is absent, so it is the embeddings again",)
        self.notes = (*(tied if self.config.tie_embeddings else ()), *self._ledger.notes())

    @property
    def chat_template(self) -> str | None:
        found = self._header.metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    @cached_property
    def chat_form(self) -> ChatForm | None:
        return chat_form_of(self.chat_template, has_step=self.tokenizer().step_id is not None)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As `Reader.tensors`, in the order of their bytes."""
        return self._ledger.stream(self._read())

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the file's header.

        Raises:
            CheckpointError: there is none, it is not a SentencePiece vocabulary, it is damaged,
                or it has more pieces than the model has rows of embeddings.
        """
        from codellama.text.tokenizer import Tokenizer  # SentencePiece takes time to import

        metadata = self._header.metadata
        model = metadata.get(_TOKENIZER + "model")
        if model != "llama":
            found = "missing" if model is None else quoted(model)
            raise CheckpointError(
                f"{self._where}: `{_TOKENIZER}model` is {found}, and only the SentencePiece "
                "vocabularies called 'llama' are read"
            )
        add_space = metadata.get(_TOKENIZER + "add_space_prefix")
        if not isinstance(add_space, bool | None):
            raise CheckpointError(
                f"{self._where}: `{_TOKENIZER}add_space_prefix` is {quoted(add_space)}, "
                "expected true or false"
            )
        pieces = self._header.strings(_TOKENIZER + "tokens")
        if len(pieces) > self.config.vocab_size:
            raise CheckpointError(
                f"{self._where}: the tokenizer has {len(pieces)} pieces and the model "
                f"embeds {self.config.vocab_size}",
                hint="get the file again, or from another converter",
            )
        return Tokenizer.from_pieces(
            pieces,
            self._header.numbers(_TOKENIZER + "scores").astype(np.float64).tolist(),
            self._header.numbers(_TOKENIZER + "token_type").astype(np.int64).tolist(),
            add_dummy_prefix=add_space,
            where=self._where,
        )

    def _enter(self, source: str, entry: Entry) -> None:
        if source == _ROTARY_FACTORS:
            self._check_rotary_factors(entry)
            self._ledger.skip(source, "rotary factors that change nothing")
            return
        match = _NAME.fullmatch(source)
        layer, rest = match.groups() if match else (None, "")
        ours = (OUTER_NAMES if layer is None else LAYER_NAMES).get(rest)
        if ours is None:
            self._ledger.unknown(source)
            return
        name = f"{ours}.weight" if layer is None else f"layers.{layer}.{ours}.weight"
        self._ledger.plan(name, entry.shape, source)
        self._entries.setdefault(name, entry)

    def _check_rotary_factors(self, entry: Entry) -> None:
        shape = (self.config.head_dim // 2,)
        ones = np.ones(shape, "<f4")
        if (
            entry.format is not Format.F32
            or entry.shape != shape
            or not np.array_equal(self._file.read(entry.offset, entry.count).view("<f4"), ones)
        ):
            raise ConfigError(
                f"{self._where}: {_ROTARY_FACTORS} asks for scaled rotary positions, "
                "which Code Llama models do not use"
            )

    def _read_generation(self) -> GenerationDefaults:
        def token(key: str) -> tuple[int, ...]:
            found = self._header.metadata.get(f"{_TOKENIZER}{key}_token_id")
            if found is None:
                return ()
            if type(found) is not int or not 0 <= found < self.config.vocab_size:
                raise CheckpointError(
                    f"{self._where}: `{_TOKENIZER}{key}_token_id` is {quoted(found)}, "
                    f"expected a token id below {self.config.vocab_size}"
                )
            return (found,)

        bos = token("bos")
        eos = dict.fromkeys((*token("eos"), *token("eot")))
        return GenerationDefaults(bos_id=bos[0] if bos else None, eos_ids=tuple(eos))

    def _read(self) -> Iterator[tuple[str, Tensor]]:
        for name, entry in self._entries.items():
            data = self._file.read(entry.offset, entry.count)
            tensor = Tensor(entry.format, entry.shape, data)
            if is_turned(name):
                tensor = halves_from_neighbours(tensor, self.config.head_dim)
            yield name, tensor
