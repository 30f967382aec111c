"""Sources of one's own: folders, archives, JSONL and Parquet give the same documents."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from codellama.errors import ConfigError
from codellama.train.corpus import build_corpus
from codellama.train.decontaminate import Fingerprints
from codellama.train.sources import SourceList, collect
from train_corpus import module

HEAD = "standard_library = false\nmax_share = 1.0\n"
PROSE = "What the program does is told here, at some length. " * 12
FILES = {
    "a.py": module(1),
    "pkg/b.py": module(2),
    "web/main.js": "export function area(width, height) { return width * height }\n" * 8,
    "README.md": PROSE,
    "picture.png": "not text at all",
    ".git/config": "[core]",
}


def _list(folder: Path, entry: str) -> SourceList:
    path = folder / "sources.toml"
    path.write_text(HEAD + "[[local]]\n" + entry)
    return SourceList.read(path)


def _documents(folder: Path, entry: str) -> dict[str, str]:
    """Path -> kind of what the pipeline keeps of one `[[local]]` entry."""
    corpus = build_corpus(collect(_list(folder, entry), folder), Fingerprints(), 1.0)
    return {d.path: d.kind for d in corpus.documents if d.kind != "function"}


def _write(folder: Path, kind: str) -> str:
    """Lays FILES down as a folder or an archive; its name."""
    if kind == "folder":
        for name, text in FILES.items():
            (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "mine" / name).write_text(text)
        return "mine"
    if kind == "zip":
        with zipfile.ZipFile(folder / "mine.zip", "w") as archive:
            for name, text in FILES.items():
                archive.writestr(name, text)
        return "mine.zip"
    with tarfile.open(folder / "mine.tar.gz", "w:gz") as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return "mine.tar.gz"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_folders_and_archives_are_read_by_suffix(tmp_path: Path, kind: str) -> None:
    name = _write(tmp_path, kind)
    assert _documents(tmp_path, f'name = "mine"\npath = "{name}"\nlicence = "own"\n') == {
        "mine/a.py": "python",
        "mine/pkg/b.py": "python",
        "mine/web/main.js": "code",
        "mine/README.md": "text",
    }


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_tables_are_read_by_column(tmp_path: Path, kind: str) -> None:
    texts = [PROSE + str(i) * 40 + PROSE[::-1] for i in range(3)]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        arrow = pytest.importorskip("pyarrow")
        parquet.write_table(arrow.table({"body": texts, "other": [1, 2, 3]}), path)
    else:
        data = "".join(json.dumps({"body": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(data) if kind == "jsonl.gz" else data)
    entry = f'name = "rows"\npath = "{path.name}"\nlicence = "CC0-1.0"\nkind = "prose"\n'
    assert set(_documents(tmp_path, entry + 'column = "body"\n').values()) == {"prose"}
    with pytest.raises(ConfigError, match="`text`"):
        _documents(tmp_path, entry)


def test_the_same_texts_have_the_same_digest(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        _write(tmp_path / folder, "folder")
    entry = 'name = "mine"\npath = "mine"\nlicence = "own"\n'
    first, second = (_list(tmp_path / n, entry).local[0].sha256 for n in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "mine" / "a.py").write_text("x = 1\n")
    assert _list(tmp_path / "two", entry).local[0].sha256 != first


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('path = "none"\nlicence = "MIT"', "there is nothing at .*none"),
        ('path = "rows.jsonl"\nlicence = "MIT"', "rows need a `kind`"),
        ('path = "rows.jsonl"\nlicence = "GPL-3.0-only"', "'GPL-3.0-only' is not one to train on"),
        ('path = "rows.jsonl"\nlicence = "MIT"\nsplit = "test"', "split 'test'"),
        ('path = "note.doc"\nlicence = "MIT"', "note.doc is no folder, archive or table"),
        ('path = "rows.jsonl"\nlicense = "MIT"', "did you mean `licence`"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "note.doc").write_text("")
    with pytest.raises(ConfigError, match=message):
        _list(tmp_path, f'name = "mine"\n{entry}\n')


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.zip", "a.tar.gz", "a.parquet"])
def test_a_damaged_file_is_an_error_in_a_sentence(tmp_path: Path, name: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"{ this is nothing")
    entry = f'name = "mine"\npath = "{name}"\nlicence = "MIT"\nkind = "prose"\n'
    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        _documents(tmp_path, entry)
