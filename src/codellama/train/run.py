"""A recipe and a corpus folder put together into a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from codellama.errors import ConfigError
from codellama.text.chat import chat_ids
from codellama.text.tokenizer import Tokenizer
from codellama.train.chunks import chunk_table
from codellama.train.corpus import Document, read_documents
from codellama.train.data import ChatSource, Source, TextSource, read_conversations
from codellama.train.keys import KeySource
from codellama.train.own import OWN_FILE, OwnSource, read_own
from codellama.train.recipe import CHAT, KEYS, KINDS, OWN, Stage
from codellama.train.shards import StoredTexts

TOKENS, CHUNKS = "tokens", "chunks"  # folders of a corpus


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
        self._documents: dict[tuple[str, str], list[Document]] = {}
        if not (folder / TOKENS).is_dir():
            raise ConfigError(
                f"{folder} holds texts and no tokens",
                hint="run `codellama data build` again; it keeps what it made before",
            )

    def documents(self, split: str, kind: str) -> Sequence[Document]:
        """The documents of one split and kind; empty when there are none."""
        if (split, kind) not in self._documents:
            self._documents[split, kind] = [
                d for d in read_documents(self.folder) if (d.split, d.kind) == (split, kind)
            ]
        return self._documents[split, kind]

    def texts(self, split: str, kind: str) -> StoredTexts:
        """The same, mapped, with their ids."""
        return StoredTexts(self.folder / TOKENS, f"{split}-{kind}")

    def sources(self, stage: Stage) -> Mapping[str, Source]:
        """The sources a stage's mix names, cut for its row length."""
        found: dict[str, Source] = {}
        for name in stage.mix:
            if name in KINDS:
                texts = self.texts("train", name)
                chunks = chunk_table(texts, stage.row_length, self.folder / CHUNKS)
                found[name] = TextSource(
                    texts, chunks, self.tokenizer, stage.infill_rate, stage.line_rate
                )
            elif name == KEYS:
                functions = self.documents("train", "function")
                found[name] = KeySource(functions, self.tokenizer, stage.row_length)
            elif name == OWN:
                found[name] = OwnSource(read_own(self.folder / OWN_FILE), self.tokenizer)
            else:
                assert name == CHAT, "recipes name known sources only"
                talks = read_conversations(self.folder / "chat.jsonl")
                found[name] = ChatSource(talks, self.prompt_ids, self.tokenizer)
        return found

    def prompt_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation up to where the answer begins."""
        return chat_ids(self.tokenizer, messages, form="inst")
