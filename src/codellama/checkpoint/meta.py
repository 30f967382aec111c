"""Meta's folders: `params.json`, `consolidated.00.pth` and on, and `tokenizer.model`.

A model may be split over up to eight files, each holding a part of every matrix: a range of rows,
or of columns, as the table below says. Norms are in every file. Names and the axis of the split:
the conversion script for Llama weights in `transformers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codellama.checkpoint.files import Folder, quoted
from codellama.checkpoint.meta_params import config_from_params
from codellama.checkpoint.pth import StoredTensor, read_tensors
from codellama.checkpoint.reader import (
    ChatForm,
    GenerationDefaults,
    Kind,
    Ledger,
    TensorInfo,
    chat_form_of,
)
from codellama.checkpoint.rotary import halves_from_neighbours, is_turned
from codellama.checkpoint.strict_json import parse_object
from codellama.errors import CheckpointError
from codellama.quant.formats import Bytes, Format, Tensor

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
MAX_SHARDS = 8
MAX_TOKENIZER = 64 << 20

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth", re.ASCII)
_NAME = re.compile(r"(?:layers\.(\d+)\.)?(\w+(?:\.\w+)?)\.weight", re.ASCII)
_ROTARY_TABLE = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs", re.ASCII)
_EMBEDDINGS = "tok_embeddings.weight"

# Meta's name -> ours, and the axis along which files hold parts of it
_OUTER = {
    "tok_embeddings": ("embed_tokens", 1),
    "norm": ("norm", None),
    "output": ("lm_head", 0),
}
_LAYER = {
    "attention_norm": ("input_layernorm", None),
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "ffn_norm": ("post_attention_layernorm", None),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w3": ("mlp.up_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
}


def open(path: Path) -> MetaReader:
    """Opens a folder as Meta released it.

    Raises:
        ConfigError: params.json asks for something this architecture does not do.
        CheckpointError: a file is missing or damaged, or the weights are not this model's.
    """
    return MetaReader(Folder(path))


class MetaReader:
    """A `Reader` of Meta's folder. Raises as `open` does."""

    kind: Kind = "meta"
    chat_template: str | None = None
    generation = GenerationDefaults()  # the files hold no such settings

    def __init__(self, folder: Folder) -> None:
        self.path = folder.path
        self._folder = folder
        with folder.open(PARAMS) as file:
            params = parse_object(file.read_small(1 << 20), str(file.path))
        shards = [read_tensors(folder.open(name)) for name in _shard_names(folder)]
        _check_same_names(self.path, shards)
        vocab_size, dim = self._embeddings(shards)
        self.config, notes = config_from_params(params, str(self.path / PARAMS), vocab_size)
        self._check_shard_count(shards, dim)
        self._ledger = Ledger(str(self.path), self.config, len(shards[0]))
        self._parts: dict[str, _Parts] = {}
        for source in shards[0]:
            self._enter(source, [shard[source] for shard in shards])
        self._ledger.check()
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(parts.format, parts.shape) for name, parts in self._parts.items()
        }
        self._tokenizer_folder = _tokenizer_folder(folder)
        if self._tokenizer_folder is not folder:
            notes = (*notes, f"{TOKENIZER} is that of the folder above")
        self.notes = (*notes, *self._ledger.notes())

    @cached_property
    def chat_form(self) -> ChatForm | None:
        return chat_form_of(None, has_step=self.tokenizer().step_id is not None)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As `Reader.tensors`, in the order of the first file."""
        return self._ledger.stream(self._read())

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the folder, or of the one above, where Llama 2's download puts it.

        Raises:
            CheckpointError: there is none, it is damaged, or it has more pieces than the model has
                rows of embeddings.
        """
        from codellama.text.tokenizer import Tokenizer  # SentencePiece takes time to import

        if TOKENIZER not in self._tokenizer_folder.names:
            raise CheckpointError(
                f"{self.path}: holds no {TOKENIZER}, and neither does the folder above",
                hint="copy it from where the model came from",
            )
        with self._tokenizer_folder.open(TOKENIZER) as file:
            where = str(file.path)
            tokenizer = Tokenizer.from_files({TOKENIZER: file.read_small(MAX_TOKENIZER)}, where)
        if tokenizer.n_vocab > self.config.vocab_size:
            raise CheckpointError(
                f"{where}: has {tokenizer.n_vocab} pieces, and the model embeds "
                f"{self.config.vocab_size}",
                hint="tokenizer and weights belong to different models",
            )
        return tokenizer

    def _embeddings(self, shards: Sequence[Mapping[str, StoredTensor]]) -> tuple[int, int]:
        """Rows and, over all files, columns of the embeddings."""
        shapes = [shard[_EMBEDDINGS].shape for shard in shards if _EMBEDDINGS in shard]
        if not shapes or any(len(shape) != 2 for shape in shapes):
            raise CheckpointError(
                f"{self.path}: has no matrix {_EMBEDDINGS}, so this is not a Llama model"
            )
        return shapes[0][0], sum(shape[1] for shape in shapes)

    def _check_shard_count(
        self, shards: Sequence[Mapping[str, StoredTensor]], n_columns: int
    ) -> None:
        """Names the commonest mistake: norms as wide as the model, and matrices narrower."""
        dim, width = self.config.dim, n_columns // len(shards)
        norm = shards[0].get("norm.weight")
        if norm is not None and norm.shape == (dim,) and n_columns < dim and dim % width == 0:
            raise CheckpointError(
                f"{self.path}: has {len(shards)} of {dim // width} consolidated files",
                hint="the download has not finished, or files were moved",
            )

    def _enter(self, source: str, parts: list[StoredTensor]) -> None:
        if _ROTARY_TABLE.fullmatch(source):
            self._ledger.skip(source, "rotary tables, which the rotary base gives")
            return
        match = _NAME.fullmatch(source)
        layer, rest = match.groups() if match else (None, "")
        found = (_OUTER if layer is None else _LAYER).get(rest)
        if found is None:
            self._ledger.unknown(source)
            return
        ours, axis = found
        name = f"{ours}.weight" if layer is None else f"layers.{layer}.{ours}.weight"
        joined = _Parts.join(f"{self.path}: {source}", parts, axis)
        self._ledger.plan(name, joined.shape, source)
        self._parts.setdefault(name, joined)

    def _read(self) -> Iterator[tuple[str, Tensor]]:
        for name, parts in self._parts.items():
            tensor = Tensor(parts.format, parts.shape, parts.read())
            if is_turned(name):
                tensor = halves_from_neighbours(tensor, self.config.head_dim)
            yield name, tensor


@dataclass(frozen=True)
class _Parts:
    """One tensor, cut along `axis` (None: a copy in every file)."""

    where: str
    parts: Sequence[StoredTensor]
    axis: int | None
    format: Format
    shape: tuple[int, ...]

    @classmethod
    def join(cls, where: str, parts: Sequence[StoredTensor], axis: int | None) -> _Parts:
        shapes = [part.shape for part in parts]
        formats = {part.format for part in parts}
        shape = shapes[0]
        if axis is not None and len(shape) == 2 and set(map(len, shapes)) == {2}:
            # Along the other axis all must agree, or the shapes stay as different as they are.
            uncut = {s[1 - axis] for s in shapes}
            if len(uncut) == 1:
                cut = sum(s[axis] for s in shapes)
                shape = (cut, shape[1]) if axis == 0 else (shape[0], cut)
                shapes = [shape]
        if len(set(shapes)) != 1 or len(formats) != 1:
            found = ", ".join(f"{part.format} {list(part.shape)}" for part in parts)
            raise CheckpointError(f"{where}: the files' parts do not fit together: {found}")
        return cls(where, parts, axis, formats.pop(), shape)

    def read(self) -> Bytes:
        first = self.parts[0].read()
        if len(self.parts) == 1:
            return first
        if self.axis is None:
            if not all(np.array_equal(first, part.read()) for part in self.parts[1:]):
                raise CheckpointError(
                    f"{self.where}: the consolidated files hold different values, "
                    "and it should be the same in all",
                    hint="the files belong to different models",
                )
            return first
        whole = np.empty(sum(part.count for part in self.parts), dtype=np.uint8)
        # Rows lie one after another; columns make up a part of each row.
        rows = whole.reshape(1 if self.axis == 0 else self.shape[0], -1)
        at = 0
        for i, part in enumerate(self.parts):
            data = (first if i == 0 else part.read()).reshape(len(rows), -1)
            rows[:, at : at + data.shape[1]] = data
            at += data.shape[1]
        whole.flags.writeable = False
        return whole


def _shard_names(folder: Folder) -> list[str]:
    """The consolidated files in order, without a gap."""
    found = sorted(
        name for name in folder.names if name.startswith("consolidated.") and name.endswith(".pth")
    )
    expected = [f"consolidated.{i:02d}.pth" for i in range(len(found))]
    if not found:
        raise CheckpointError(f"{folder.path}: holds no consolidated.00.pth")
    if found != expected:
        wrong = [name for name in found if not _SHARD.fullmatch(name)]
        lacking = [name for name in expected if name not in found]
        problem = (
            f"{quoted(wrong[0])} is not named as consolidated.NN.pth"
            if wrong
            else f"{lacking[0]} is missing"
        )
        raise CheckpointError(
            f"{folder.path}: {problem}", hint="the download has not finished, or a file was renamed"
        )
    if len(found) > MAX_SHARDS:
        raise CheckpointError(
            f"{folder.path}: has {len(found)} consolidated files, more than {MAX_SHARDS}"
        )
    return found


def _check_same_names(path: Path, shards: Sequence[Mapping[str, StoredTensor]]) -> None:
    for i, shard in enumerate(shards):
        different = sorted(shard.keys() ^ shards[0].keys())
        if different:
            raise CheckpointError(
                f"{path}: {quoted(different[0])} is in only one of consolidated.00.pth and "
                f"consolidated.{i:02d}.pth",
                hint="the files belong to different models",
            )


def _tokenizer_folder(folder: Folder) -> Folder:
    if TOKENIZER in folder.names:
        return folder
    above = folder.path.resolve().parent
    try:
        return Folder(above) if (above / TOKENIZER).is_file() else folder
    except OSError:
        return folder
