"""Collected projects -> a corpus folder: documents, manifest, tokenizer and conversations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from codellama.errors import ConfigError
from codellama.text.tokenizer import Tokenizer
from codellama.train.conversations import HandWritten, make_conversations
from codellama.train.corpus import Corpus, build_corpus
from codellama.train.decontaminate import Fingerprints
from codellama.train.disk import file_digest
from codellama.train.run import TOKENS
from codellama.train.shards import write_shards
from codellama.train.sources import Collection
from codellama.train.vocabulary import train_tokenizer

CLEANED = "cleaned"  # folder of a corpus: what cleaning gave, for a build that goes on
TOKENIZER_CHARS = 16_000_000  # more text than this changes little and takes longer


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What a build may vary in; `tokenizer` None trains one, `chat` None leaves it out."""

    max_share: float = 1.0
    evaluation_files: tuple[Path, ...] = ()
    n_pieces: int = 8192
    tokenizer: Path | None = None
    chat: Path | None = None
    talks: tuple[Path, ...] = ()  # further conversations, one JSON list of messages a line
    n_conversations: int = 8000
    seed: int = 7


def build(
    distributions: Sequence[Collection],
    out: Path,
    settings: BuildSettings,
    note: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """Writes the whole folder `out`; the same archives and settings give the same bytes.

    Raises:
        ConfigError: an evaluation file or the chat file cannot be read, or the text is too little
            for the tokenizer.
    """
    fingerprints = Fingerprints.read(settings.evaluation_files)
    note(f"{len(fingerprints)} marks of evaluation problems")
    corpus = build_corpus(distributions, fingerprints, settings.max_share,
                          kept_cleaned=out / CLEANED, note=note)  # fmt: skip
    corpus.save(out)
    (out / "NOTICE").write_text(_notice(distributions), encoding="utf-8")
    for reason, n in corpus.dropped().most_common():
        note(f"dropped {n:6} files: {reason}")
    train = [d for d in corpus.documents if d.split == "train"]
    kept = sum(len(d.text) for d in train if d.kind != "function")
    note(f"kept {kept / 1e6:.1f} MB to train on, in {len(train)} documents")
    if settings.tokenizer is not None:
        shutil.copyfile(settings.tokenizer, out / "tokenizer.model")
    else:
        texts = [d.text for d in train if d.kind != "function"]
        Random(settings.seed).shuffle(texts)
        train_tokenizer(texts, settings.n_pieces, out / "tokenizer.model", TOKENIZER_CHARS)
    tokenizer = Tokenizer.open(out / "tokenizer.model")
    digest = file_digest(out / "tokenizer.model")
    tokens = write_shards(corpus.documents, out / TOKENS, tokenizer, digest, note)
    report = corpus.report() | {"tokens": tokens}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    talks = [talk for path in settings.talks for talk in _read_talks(path)]
    if settings.chat is not None:
        functions = [d for d in train if d.kind == "function"]
        written = HandWritten.read(settings.chat)
        talks += make_conversations(functions, written, settings.n_conversations, settings.seed)
    if talks:
        with (out / "chat.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(talk) + "\n" for talk in talks)
        note(f"{len(talks)} conversations")
    note(f"{out / 'report.json'} says how much was kept, how much was dropped and why")
    return corpus


def _read_talks(path: Path) -> list[list[dict[str, str]]]:
    """Raises ConfigError when a line is not a conversation that ends with an answer."""
    found = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            talk = json.loads(line)
            roles = [message["role"] for message in talk]
            if roles[-1] != "assistant" or not all(isinstance(m["content"], str) for m in talk):
                raise ConfigError(f"{path}: line {number} does not end with an assistant's answer")
            found.append(talk)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path} does not hold conversations: {error!r}") from error
    return found


def _notice(distributions: Sequence[Collection]) -> str:
    """The projects trained on with their licence texts, each text once."""
    owners: dict[str, list[str]] = {}
    lines = ["The model was trained on text of these projects.", ""]
    for distribution in distributions:
        if distribution.split != "train" or distribution.licence is None:
            continue
        name = f"{distribution.name} {distribution.version}"
        lines.append(f"  {name}: {distribution.licence}")
        for text in distribution.licence_texts():
            owners.setdefault(text, []).append(name)
    for text, names in owners.items():
        lines += ["", "=" * 80, ", ".join(dict.fromkeys(names)), "=" * 80, "", text]
    return "\n".join(lines) + "\n"
