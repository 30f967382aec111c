"""A recipe and a corpus folder put together into a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from codellama.errors import ConfigError
from codellama.text.chat import chat_ids
from codellama.text.tokenizer import Tokenizer
from codellama.train.chunks import chunk_table
from codellama.train.corpus import Document, read_documents
from codellama.train.data import ChatSource, Source, TextSource, read_conversations
from codellama.train.recipe import CHAT, KINDS, Stage


class CorpusFolder:
    """What `codellama data build` made: documents, conversations and the tokenizer.

    Raises:
        ConfigError: the folder is not a built corpus.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "documents.jsonl").is_file() or not (folder / "tokenizer.model").is_file():
            raise ConfigError(
                f"{folder} holds no corpus",
                hint="make one with `codellama data collect` and `codellama data build`",
            )
        self.folder = folder
        self.tokenizer = Tokenizer.open(folder / "tokenizer.model")
        self._digest = hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()
        self._documents: dict[tuple[str, str], list[Document]] = {}
        for document in read_documents(folder):
            self._documents.setdefault((document.split, document.kind), []).append(document)

    def documents(self, split: str, kind: str) -> Sequence[Document]:
        """The documents of one split and kind; empty when there are none."""
        return self._documents.get((split, kind), [])

    def sources(self, stage: Stage) -> Mapping[str, Source]:
        """The sources a stage's mix names, cut for its row length."""
        found: dict[str, Source] = {}
        for name in stage.mix:
            if name in KINDS:
                documents = self.documents("train", name)
                chunks = chunk_table(documents, stage.row_length, self._encode_lines,
                                     (self.folder, self._digest))  # fmt: skip
                found[name] = TextSource(
                    documents, chunks, self.tokenizer, stage.infill_rate, stage.line_rate
                )
            else:
                assert name == CHAT, "recipes name known sources only"
                talks = read_conversations(self.folder / "chat.jsonl")
                found[name] = ChatSource(talks, self.prompt_ids, self.tokenizer)
        return found

    def _encode_lines(self, lines: list[str]) -> list[list[int]]:
        return [self.tokenizer.encode(line) if line else [] for line in lines]

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation up to where the answer begins."""
        return chat_ids(self.tokenizer, messages, form="inst")
