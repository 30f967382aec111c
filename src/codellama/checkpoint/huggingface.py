"""Hugging Face folders: `config.json`, safetensors weights, a tokenizer and its settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.checkpoint.files import Folder, quoted
from codellama.checkpoint.reader import (
    ChatForm,
    GenerationDefaults,
    Kind,
    Ledger,
    TensorInfo,
    chat_form_of,
)
from codellama.checkpoint.safetensors import Entry, read_entries
from codellama.checkpoint.strict_json import parse_object
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
OWN_RECORD = "codellama"  # our key in tokenizer_config.json, which others carry along unread

_FORMATS = {"F32": Format.F32, "F16": Format.F16, "BF16": Format.BF16}
_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
_ROTARY_TABLE = re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_COMPARED_AT_ONCE = 16 << 20


def open(path: Path) -> HuggingFaceReader:
    """Opens a Hugging Face folder with safetensors weights.

    Raises:
        ConfigError: the configuration asks for something this architecture does not do.
        CheckpointError: a file is missing or damaged, or the weights are not this model's.
    """
    return HuggingFaceReader(Folder(path))


class HuggingFaceReader:
    """A `Reader` of a Hugging Face folder. Raises as `open` does."""

    kind: Kind = "hf"

    def __init__(self, folder: Folder) -> None:
        self.path = folder.path
        self._folder = folder
        raw = self._read_json(CONFIG)
        self._refuse_quantised(raw)
        self.config = ModelConfig.from_hf(raw, where=str(self.path / CONFIG))
        self.generation = self._read_generation(raw)
        entries = read_entries(folder)
        self._entries: dict[str, Entry] = {}
        self._tied_head: Entry | None = None
        self._ledger = Ledger(str(self.path), self.config, len(entries))
        for name, entry in entries.items():
            self._enter(name, entry)
        self._ledger.check()
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(self._format(name, entry), entry.shape)
            for name, entry in self._entries.items()
        }
        ignored = [key for key in ("auto_map", "custom_pipelines") if key in raw]
        self.notes = (
            *(f"ignored `{key}` in {CONFIG}: code in a model folder is not run" for key in ignored),
            *self._ledger.notes(),
        )

    @cached_property
    def chat_template(self) -> str | None:
        if TEMPLATE in self._folder.names:
            with self._folder.open(TEMPLATE) as file:
                return file.read_small(1 << 20).decode("utf-8", errors="replace")
        template = self._tokenizer_config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
            template = named[0].get("template") if named else None
        return template if isinstance(template, str) else None

    @cached_property
    def chat_form(self) -> ChatForm | None:
        own = self._tokenizer_config.get(OWN_RECORD)
        if isinstance(own, dict) and "chat_form" in own:
            forms: dict[Any, ChatForm | None] = {None: None, "inst": "inst", "step": "step"}
            form = own["chat_form"]
            if not isinstance(form, str | None) or form not in forms:
                raise CheckpointError(
                    f"{self.path / TOKENIZER_CONFIG}: `{OWN_RECORD}.chat_form` is {quoted(form)}, "
                    "expected inst, step or null"
                )
            return forms[form]
        spoken = chat_form_of(self.chat_template, has_step=False)
        return spoken or ("step" if self.tokenizer().step_id is not None else None)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As `Reader.tensors`, in the order of their bytes."""
        return self._ledger.stream(self._read())

    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer.

        Raises:
            CheckpointError: there is none, it is damaged, or it has more pieces than the model has
                rows of embeddings.
        """
        from codellama.text.files import BESIDE_MODEL, MAX_BYTES
        from codellama.text.tokenizer import Tokenizer

        names: tuple[str, ...] = ("tokenizer.json",)
        if "tokenizer.model" in self._folder.names:
            names = ("tokenizer.model", *BESIDE_MODEL)
        files = {}
        for name in self._folder.names.intersection(names):
            with self._folder.open(name) as file:
                files[name] = file.read_small(MAX_BYTES)
        tokenizer = Tokenizer.from_files(files, str(self.path))
        if tokenizer.n_vocab > self.config.vocab_size:
            raise CheckpointError(
                f"{self.path}: the tokenizer has {tokenizer.n_vocab} pieces and the model "
                f"embeds {self.config.vocab_size}",
                hint="tokenizer and weights belong to different models",
            )
        return tokenizer

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        if TOKENIZER_CONFIG not in self._folder.names:
            return {}
        return self._read_json(TOKENIZER_CONFIG)

    def _read_json(self, name: str) -> dict[str, Any]:
        with self._folder.open(name) as file:
            return parse_object(file.read_small(), str(file.path))

    def _refuse_quantised(self, raw: Mapping[str, Any]) -> None:
        quantised = raw.get("quantization_config")
        if quantised is not None:
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
            raise CheckpointError(
                f"{self.path / CONFIG}: the weights are quantised with {quoted(method)}, "
                "and of quantised files only GGUF is read",
                hint="take the model's unquantised weights or a .gguf file of it",
            )

    def _read_generation(self, config: Mapping[str, Any]) -> GenerationDefaults:
        raw = self._read_json(GENERATION) if GENERATION in self._folder.names else {}

        def ids(key: str) -> tuple[int, ...]:
            name, value = GENERATION, raw.get(key)
            if value is None:
                name, value = CONFIG, config.get(key)
            if value is None:
                return ()
            found = value if isinstance(value, list) else [value]
            for n in found:
                if type(n) is not int or not 0 <= n < self.config.vocab_size:
                    raise CheckpointError(
                        f"{self.path / name}: `{key}` is {quoted(value)}, "
                        f"expected token ids below {self.config.vocab_size}"
                    )
            return tuple(found)

        bos = ids("bos_token_id")
        if len(bos) > 1:
            raise CheckpointError(f"{self.path}: `bos_token_id` is {quoted(list(bos))}")
        return GenerationDefaults(bos_id=bos[0] if bos else None, eos_ids=ids("eos_token_id"))

    def _enter(self, source: str, entry: Entry) -> None:
        name = source.removeprefix("model.")
        if _ROTARY_TABLE.fullmatch(source):
            self._ledger.skip(source, "rotary tables, which the rotary base gives")
        elif name == _HEAD and self.config.tie_embeddings:
            self._ledger.skip(source, "tied to the embeddings")
            self._tied_head = entry
        else:
            self._ledger.plan(name, entry.shape, source)
            self._entries.setdefault(name, entry)

    def _format(self, name: str, entry: Entry) -> Format:
        format = _FORMATS.get(entry.dtype)
        if format is None:
            raise CheckpointError(
                f"{entry.file.path}: {name} is stored as {entry.dtype}, "
                f"and only {', '.join(_FORMATS)} are read"
            )
        return format

    def _read(self) -> Iterator[tuple[str, Tensor]]:
        self._check_tied_head()
        for name, entry in self._entries.items():
            info = self.infos[name]
            yield name, Tensor(info.format, info.shape, entry.file.read(entry.offset, entry.count))

    def _check_tied_head(self) -> None:
        """A head beside tied embeddings may only be a copy of them."""
        head = self._tied_head
        if head is None:
            return
        table = self._entries[_EMBEDDING]
        same = (head.dtype, head.shape) == (table.dtype, table.shape)
        for at in range(0, head.count if same else 0, _COMPARED_AT_ONCE):
            n = min(_COMPARED_AT_ONCE, head.count - at)
            ours, theirs = (entry.file.read(entry.offset + at, n) for entry in (head, table))
            same = same and bool((ours == theirs).all())
        if not same:
            raise CheckpointError(
                f"{head.file.path}: {_HEAD} differs from the embeddings that {CONFIG} says "
                "it is tied to",
                hint=f"set `tie_word_embeddings` to false in {CONFIG} if the head is real",
            )
