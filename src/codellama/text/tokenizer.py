"""Text to ids and back, as Meta's reference implementation does it.

Whatever file the vocabulary comes from (tokenizer.model, tokenizer.json or a GGUF header) it
becomes a SentencePiece model and SentencePiece encodes, so ids cannot depend on the file format.
Rules: `llama/tokenizer.py` of github.com/meta-llama/codellama, commit e81b597.

Text is data. In the reference, ` <SUF>` in a prompt turns into the marker of that name, because
the markers are ordinary pieces that text can reach. Here that takes `allow_control=True`. By
default such an id is replaced by the ids of its parts (`▁<SUF` and `>`), which is what the merges
before the last one gave; text that reaches no marker has the same ids either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

from codellama.errors import CheckpointError, PromptError
from codellama.text import llama2, spm
from codellama.text.beginnings import Beginnings
from codellama.text.decoding import SPACE, StreamDecoder
from codellama.text.files import read_tokenizer_files
from codellama.text.spm import PieceType, Vocabulary

PREFIX, SUFFIX, MIDDLE, EOT, STEP = "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "<step>"
EOT_RUNS = tuple(SPACE + "<EOT>" * n for n in range(2, 7))
CONTROL_PIECES = frozenset((PREFIX, SUFFIX, MIDDLE, EOT, STEP, *EOT_RUNS))


class Tokenizer:
    """A vocabulary and the two directions through it. Safe to share between threads.

    `prefix_id`, `suffix_id`, `middle_id`, `eot_id` and `step_id` are None where the vocabulary
    lacks the piece. Text never becomes a control id, unless asked for with `allow_control`.
    """

    def __init__(self, model: bytes, where: str = "tokenizer") -> None:
        """From the bytes of a SentencePiece model; `where` is what messages call it.

        Raises:
            CheckpointError: damaged, or not BPE with byte fallback over unchanged text.
        """
        self._model, self._where = model, where
        self.add_dummy_prefix = spm.check(model, where)
        self._processor = _processor(model, where)
        self._bare = self._processor if not self.add_dummy_prefix else None
        self._surfaces: dict[int, str | int] = {}
        self.n_vocab: int = self._processor.get_piece_size()
        try:
            self._pieces: list[str] = self._processor.id_to_piece(list(range(self.n_vocab)))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{where}: a piece is not UTF-8") from error
        self.unk_id: int = self._processor.unk_id()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        for name, value in (("<s>", self.bos_id), ("</s>", self.eos_id)):
            if value < 0:
                raise CheckpointError(f"{where}: the vocabulary has no {name}")
        self.prefix_id = self._find(PREFIX)
        self.suffix_id = self._find(SUFFIX)
        self.middle_id = self._find(MIDDLE)
        self.eot_id = self._find(EOT)
        self.step_id = self._find(STEP)
        found = ((self._find(piece), piece) for piece in CONTROL_PIECES)
        self._markers = {i: piece for i, piece in found if i is not None}
        self._parts: dict[int, tuple[int, ...]] = {}  # of markers met in text

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """From a tokenizer.model, a tokenizer.json, or a folder with one of them (in that order).

        Raises:
            CheckpointError: there is none, it is damaged, or it is of a kind that is not supported.
        """
        path = Path(path)
        files = read_tokenizer_files(path)
        return cls._open(files, {name: path / name if path.is_dir() else path for name in files})

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str) -> Self:
        """From the contents of a model folder's tokenizer files, by name.

        Looks at `tokenizer.model`, with the tokens that `tokenizer_config.json` and
        `added_tokens.json` add to it, or else at `tokenizer.json`. Messages call the files by
        `where`, a folder or the one file.

        Raises:
            CheckpointError: as `open`.
        """
        if not files.keys() & {"tokenizer.model", "tokenizer.json"}:
            raise CheckpointError(f"{where}: holds neither tokenizer.model nor tokenizer.json")
        place = Path(where)
        return cls._open(
            files, {name: place if place.name == name else place / name for name in files}
        )

    @classmethod
    def _open(cls, files: Mapping[str, bytes], places: Mapping[str, Path]) -> Self:
        if files.keys() == {"tokenizer.model"}:
            return cls(files["tokenizer.model"], str(places["tokenizer.model"]))
        from codellama.text import hf_files

        if "tokenizer.model" in files:
            where = str(places["tokenizer.model"])
            found = cls(files["tokenizer.model"], where)
            added = hf_files.read_added_tokens(files, places)
            if all(found._has(token.id, token.content) for token in added):
                return found
            vocabulary, add_dummy_prefix = found.vocabulary(), found.add_dummy_prefix
        else:
            where = str(places["tokenizer.json"])
            read = hf_files.read_tokenizer_json(files["tokenizer.json"], where)
            vocabulary, add_dummy_prefix, added = read
        if STEP not in vocabulary.pieces and any(token.content == STEP for token in added):
            # The published 70B-Instruct files add <step> to another vocabulary, whose space in
            # front of text their own pipeline needs. The model's own tokenizer puts none.
            add_dummy_prefix = False
        vocabulary = hf_files.with_added_tokens(vocabulary, added, where)
        return cls._from_vocabulary(vocabulary, add_dummy_prefix, where)

    @classmethod
    def from_pieces(
        cls,
        pieces: Sequence[str],
        scores: Sequence[float],
        types: Sequence[int],
        *,
        add_dummy_prefix: bool | None,
        where: str = "vocabulary",
    ) -> Self:
        """From a list of pieces, as a GGUF header gives it; `types` are SentencePiece's numbers.

        The family's own markers become plain pieces and its vocabulary gets Meta's scores, whatever
        a converter made of them. When `add_dummy_prefix` is None it is what the family does: off
        for 70B-Instruct, known by its `<step>` at 32015, and on for the others.

        Raises:
            CheckpointError: lengths differ, a piece is empty or doubled, bytes are missing, or
                scores do not order the merges.
        """
        kinds = [int(kind) for kind in types]
        for at, piece in enumerate(pieces[: len(kinds)]):
            if piece in CONTROL_PIECES:
                kinds[at] = PieceType.NORMAL
        if add_dummy_prefix is None:
            add_dummy_prefix = list(pieces[32015:32016]) != [STEP]
        return cls._from_vocabulary(Vocabulary(pieces, scores, kinds), add_dummy_prefix, where)

    @classmethod
    def _from_vocabulary(cls, vocabulary: Vocabulary, add_dummy_prefix: bool, where: str) -> Self:
        vocabulary.check(where)
        vocabulary = llama2.with_metas_scores(vocabulary)
        if not spm.orders_merges(vocabulary):
            raise CheckpointError(
                f"{where}: all pieces have the same score, so the order of merges is lost",
                hint="convert the model again with a newer converter, from tokenizer.model",
            )
        return cls(spm.build(vocabulary, add_dummy_prefix=add_dummy_prefix), where)

    @property
    def has_infill(self) -> bool:
        """Whether the vocabulary has all four infilling markers."""
        return None not in (self.prefix_id, self.suffix_id, self.middle_id, self.eot_id)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids that text does not become: the markers, `<s>`, `</s>`, `<unk>` and their like."""
        everything = range(self.n_vocab)
        flags = self._processor.is_control(list(everything))
        control = (i for i, flag in zip(everything, flags, strict=True) if flag)
        return frozenset((self.unk_id, *control, *self._markers))

    def encode(
        self, text: str, bos: bool = False, eos: bool = False, *, allow_control: bool = False
    ) -> list[int]:
        """Ids of `text`, `<s>` in front if `bos` and `</s>` behind if `eos`.

        Raises:
            PromptError: the text holds half a surrogate pair, which no encoding can express.
        """
        check_text(text)
        ids = self._safe(self._processor.encode(text), allow_control)
        if bos:
            ids.insert(0, self.bos_id)
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_bare(self, text: str, *, allow_control: bool = False) -> list[int]:
        """Ids of `text` without the space that the tokenizer would put in front.

        Raises:
            PromptError: as `encode`.
        """
        check_text(text)
        if self._bare is None:
            self._bare = _processor(spm.without_dummy_prefix(self._model), self._where)
        return self._safe(self._bare.encode(text), allow_control)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; -1 is dropped, control ids show nothing.

        Raises:
            PromptError: an id is outside the vocabulary.
        """
        return self._decode(ids, bare=False)

    def decode_bare(self, ids: Iterable[int]) -> str:
        """As `decode`, and the first piece keeps the space it begins with."""
        return self._decode(ids, bare=True)

    def stream_decoder(self, *, bare: bool) -> StreamDecoder:
        """Decodes ids one by one to what `decode`, or `decode_bare`, would give for all of them."""
        return StreamDecoder(self, drop_first_space=self.add_dummy_prefix and not bare)

    def piece(self, token_id: int) -> str:
        """The piece as the vocabulary spells it. Raises PromptError outside the vocabulary."""
        self._check_id(token_id)
        return self._pieces[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the id adds to a text; none for control ids, `<s>` and `</s>`.

        Raises:
            PromptError: the id is outside the vocabulary.
        """
        self._check_id(token_id)
        surface = self.surface(token_id)
        if isinstance(surface, int):
            return bytes((surface,))
        return surface.replace(SPACE, " ").encode()

    @cached_property
    def beginnings(self) -> Beginnings:
        """The tokens that text may be written with, by what they show; control ids are not."""
        others = (i for i in range(self.n_vocab) if i not in self._markers)
        return Beginnings({i: self.token_bytes(i) for i in others})

    def surface(self, token_id: int) -> str | int:
        """What an id shows: a text with `▁` for spaces, or the value of a byte piece.

        An id beyond the vocabulary, which a model with padded embeddings may produce, is U+FFFD.
        """
        found = self._surfaces.get(token_id)
        if found is None:
            found = self._surfaces[token_id] = self._read_surface(token_id)
        return found

    def vocabulary(self) -> Vocabulary:
        """All pieces with scores and types, as `from_pieces` takes them."""
        return spm.vocabulary(self._model, self._where)

    def to_spm_bytes(self) -> bytes:
        """The contents of a tokenizer.model; the original where this came from one."""
        return self._model

    def _find(self, piece: str) -> int | None:
        found = self._processor.piece_to_id(piece)
        return None if found == self.unk_id else int(found)

    def _has(self, token_id: int, piece: str) -> bool:
        return 0 <= token_id < self.n_vocab and self._pieces[token_id] == piece

    def _mergeable(self, piece: str) -> int | None:
        """The id of a piece that merges make, and that is not a control piece."""
        found = None if piece in CONTROL_PIECES else self._find(piece)
        is_other = (self._processor.is_control, self._processor.is_byte, self._processor.is_unused)
        return None if found is None or any(test(found) for test in is_other) else found

    def _split(self, piece: str) -> tuple[int, ...]:
        """Ids of the parts of a control piece, as if BPE did not know control pieces."""
        parts = list(piece)
        while True:
            pairs = []
            for at in range(len(parts) - 1):
                found = self._mergeable(parts[at] + parts[at + 1])
                if found is not None:
                    pairs.append((-self._processor.get_score(found), at))
            if not pairs:
                break
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids: list[int] = []
        for part in parts:
            found = self._mergeable(part)
            if found is not None:
                ids.append(found)
            else:
                ids += map(self._processor.piece_to_id, map(spm.byte_piece, part.encode()))
        return tuple(ids)

    def _safe(self, ids: list[int], allow_control: bool) -> list[int]:
        if allow_control or self._markers.keys().isdisjoint(ids):
            return ids
        for i in self._markers.keys() & ids:
            if i not in self._parts:
                self._parts[i] = self._split(self._markers[i])
        return [part for i in ids for part in self._parts.get(i, (i,))]

    def _decode(self, ids: Iterable[int], *, bare: bool) -> str:
        decoder = self.stream_decoder(bare=bare)
        parts = []
        for i in ids:
            if i != -1:
                self._check_id(i)
            parts.append(decoder.push(i))
        return "".join(parts) + decoder.finish()

    def _read_surface(self, token_id: int) -> str | int:
        if not 0 <= token_id < self.n_vocab:
            return "\ufffd"
        piece = self._pieces[token_id]
        if self._processor.is_byte(token_id):
            return int(piece[1:-1], 16)
        if token_id == self.unk_id:
            return str(self._processor.decode([token_id]))
        return "" if self._processor.is_control(token_id) else piece

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.n_vocab:
            raise PromptError(
                f"token id {token_id} is outside the vocabulary of {self.n_vocab} pieces"
            )


def check_text(text: str) -> None:
    """Raises PromptError when `text` cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text has half a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which is no character",
            hint="it comes from cutting or decoding text wrongly; send valid Unicode",
        ) from error


def _processor(model: bytes, where: str):  # type: ignore[no-untyped-def]  # the library has no types
    from sentencepiece import SentencePieceProcessor  # takes a while to import

    try:
        return SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{where}: SentencePiece cannot use it: {error}", hint="download the file again"
        ) from error
