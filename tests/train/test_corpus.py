"""The corpus: what may enter, what is taken out, and the same bytes twice."""

from __future__ import annotations

import ast
import json
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from codellama.errors import ConfigError
from codellama.train.build import BuildSettings, build
from codellama.train.cleaning import file_reason, scrub
from codellama.train.corpus import Document, build_corpus, functions, read_documents
from codellama.train.decontaminate import Fingerprints
from codellama.train.licences import licence_of
from codellama.train.sources import SourceList, collect
from train_corpus import SOURCES, make_wheel, module


def _metadata(*lines: str) -> Message:
    return Parser().parsestr("\n".join(lines) + "\n\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: MIT"], "MIT"),
        (["License-Expression: Apache-2.0 AND MIT"], "Apache-2.0 AND MIT"),
        (["License-Expression: MIT OR GPL-3.0-only"], None),
        (["License-Expression: LGPL-2.1-or-later"], None),
        (["Classifier: License :: OSI Approved :: BSD License"], "BSD-3-Clause"),
        (["Classifier: License :: OSI Approved :: MIT License",
          "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], None),
        (["License: Apache License, Version 2.0"], "Apache-2.0"),
        (["License: Do what you like"], None),
        (["Name: silent"], None),
        (["License-Expression: GPL-3.0-only", "License: MIT"], None),
    ],
)  # fmt: skip
def test_licence_gate(lines: list[str], expected: str | None) -> None:
    assert licence_of(_metadata(*lines))[0] == expected


def test_nothing_without_an_allowed_licence_is_trained_on(corpus_folder: Path) -> None:
    assert {d.project for d in read_documents(corpus_folder)} == {"alpha", "omega"}
    lines = (corpus_folder / "manifest.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines if '"forbidden"' in line]
    assert dropped
    assert all(record["dropped"] == "licence" for record in dropped)


def test_notice_names_what_was_trained_on(corpus_folder: Path) -> None:
    notice = (corpus_folder / "NOTICE").read_text()
    assert "alpha 1.0: MIT" in notice
    assert "Terms: MIT" in notice
    assert "omega" not in notice
    assert "forbidden" not in notice


def test_held_out_projects_are_not_trained_on(corpus_folder: Path) -> None:
    splits = {(d.project, d.split) for d in read_documents(corpus_folder)}
    assert {split for project, split in splits if project == "omega"} == {"val-pkg"}
    assert {split for project, split in splits if project == "alpha"} <= {"train", "val-file"}


def test_every_file_is_accounted_for(corpus_folder: Path) -> None:
    lines = (corpus_folder / "manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    reasons = {r["path"]: r["dropped"] for r in records if r["project"] == "alpha"}
    assert reasons["alpha/tests/test_part.py"] == "tests, locales or vendored"
    assert reasons["alpha/broken.py"] == "does not parse"
    assert reasons["alpha/twice.py"] == "duplicate"
    assert reasons["alpha/generated.py"] == "generated"
    assert len(reasons) == 65  # 60 parts, 4 odd files, the description
    assert all((r["split"] is None) == (r["dropped"] is not None) for r in records)


def test_building_twice_gives_the_same_bytes(
    tmp_path: Path, corpus_folder: Path, wheels: Path, sources: SourceList
) -> None:
    settings = BuildSettings(tokenizer=corpus_folder / "tokenizer.model")
    build(collect(sources, wheels), tmp_path, settings)
    for name in ("documents.jsonl", "manifest.jsonl", "projects.jsonl"):
        assert (tmp_path / name).read_bytes() == (corpus_folder / name).read_bytes()


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("a/b.py", module(1), None),
        ("a/_vendor/b.py", module(1), "tests, locales or vendored"),
        ("a/b.py", "x = 1\n", "size"),
        ("a/b.py", "# GNU General Public License\n" + module(1), "names another licence"),
        ("a/b.py", module(1) + f"x = '{'a' * 500}'\n", "long lines"),
        ("a/b.py", module(1) + "# " + "\u2581" + "\n", "reserved character"),
        ("a/b.py", "x = [" + "1, 2, 3, 44,\n" * 90 + "]\n", "data"),
        ("a/b.py", module(1) + "k = 'AKIAABCDEFGHIJKLMNOP'\n", "secret"),
        ("a/b.py", module(1) + "д" * 80 + " = 1\n", "not English"),
        ("a/b.py", "# a comment that says something\n" * 30 + "x = 1\n", "comments"),
    ],
)
def test_file_filter(path: str, text: str, reason: str | None) -> None:
    assert file_reason(path, text) == reason


def test_scrub_replaces_addresses() -> None:
    text = "ann@example.org 8.8.8.8 127.0.0.1 version 1.2.3 @decorator"
    assert scrub(text) == "<email> 192.0.2.1 127.0.0.1 version 1.2.3 @decorator"


def test_functions_are_dedented_and_parse() -> None:
    text = (
        "class A:\n    @property\n    def f(self):\n        '''Doc.'''\n        return 1\n\n"
        "    def g(self):\n        return 2\n\n"
        "    def h(self):\n        '''Doc\nfurther left.'''\n        return 3\n"
    )
    found = list(functions(Document("p", "a.py", "train", "python", text)))
    assert [f.path for f in found] == ["a.py:3"]
    assert found[0].text.startswith("@property\ndef f(self):\n    '''Doc.'''")
    ast.parse(found[0].text)


def test_decontamination_drops_what_shares_text(
    tmp_path: Path, wheels: Path, sources: SourceList, corpus_folder: Path
) -> None:
    solution = module(5).split("def ", 2)[1]
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text(json.dumps({"task": 1, "canonical_solution": "def " + solution}) + "\n")
    settings = BuildSettings(
        evaluation_files=(evaluation,), tokenizer=corpus_folder / "tokenizer.model"
    )
    corpus = build(collect(sources, wheels), tmp_path / "out", settings)
    dropped = {f.path for f in corpus.files if f.dropped == "evaluation data"}
    assert "alpha/part5.py" in dropped
    assert not any("part5.py" in d.path for d in corpus.documents)
    report = (tmp_path / "out" / "decontamination.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in report]
    assert {r["path"] for r in records} == dropped
    assert {r["problem"] for r in records} == {"eval.jsonl:1"}
    assert all(r["shared"] for r in records)


def test_the_report_adds_up(corpus_folder: Path) -> None:
    report = json.loads((corpus_folder / "report.json").read_text())
    manifest = [json.loads(s) for s in (corpus_folder / "manifest.jsonl").read_text().splitlines()]
    for outcome, lines in (
        ("kept", [r for r in manifest if r["dropped"] is None]),
        ("dropped", [r for r in manifest if r["dropped"] is not None]),
    ):
        unit = "documents" if outcome == "kept" else "files"
        entries = {k: e for k, e in report[outcome].items() if not k.endswith(" function")}
        assert sum(entry[unit] for entry in entries.values()) == len(lines) > 0
        assert sum(e["bytes"] for e in entries.values()) == sum(r["n_bytes"] for r in lines)
    assert {"licence", "does not parse", "generated", "duplicate"} <= set(report["dropped"])


def test_near_duplicates_go_and_held_out_files_stay(tmp_path: Path) -> None:
    text = module(1, n_functions=30)
    other = module(2, n_functions=30)
    near = text + "\n\ndef one_more(x):\n    return x\n"
    make_wheel(tmp_path, "alpha", "1.0", "MIT",
               {"a.py": text, "b.py": near, "c.py": other, "d.py": module(3, 30)})  # fmt: skip
    make_wheel(tmp_path, "forbidden", "2.0", "GPL-3.0-only", {})
    make_wheel(tmp_path, "omega", "0.1", "BSD-3-Clause", {"m.py": other + "\n\nx = 1\n"})
    path = tmp_path / "sources.toml"
    path.write_text(SOURCES)
    corpus = build_corpus(collect(SourceList.read(path), tmp_path), Fingerprints(), 1.0)
    files = {f.path: f.dropped for f in corpus.files if f.path.endswith(".py")}
    assert files == {
        "alpha/a.py": None,
        "alpha/b.py": "near duplicate",
        "alpha/c.py": "near a held-out file",
        "alpha/d.py": None,
        "omega/m.py": None,
    }


def test_a_function_is_trained_on_once_and_not_when_held_out(tmp_path: Path) -> None:
    shared, held = (
        f'\n\ndef {name}(x):\n    """Say what x is."""\n    return {name}s[x]\n'
        for name in ("first", "second")
    )
    files = {"a.py": module(1) + shared + held, "b.py": module(2) + shared}
    make_wheel(tmp_path, "alpha", "1.0", "MIT", files)
    make_wheel(tmp_path, "forbidden", "2.0", "GPL-3.0-only", {})
    make_wheel(tmp_path, "omega", "0.1", "BSD-3-Clause", {"m.py": module(3) + held})
    path = tmp_path / "sources.toml"
    path.write_text(SOURCES)
    corpus = build_corpus(collect(SourceList.read(path), tmp_path), Fingerprints(), 1.0)
    taken = [(d.split, d.text[4:10]) for d in corpus.documents if "s[x]" in d.text[:80]]
    assert sorted(taken) == [("train", "first("), ("val-pkg", "second")]


def test_fingerprints_leave_plain_runs_alone() -> None:
    marks = Fingerprints()
    marks.add("for i in range(len(x)):\n    for j in range(len(x)):\n        x[i] = x[j]\n", "a:1")
    plain = "for i in range(len(x)):\n    for j in range(len(x)):\n        pass\n"
    assert marks.match(plain) is None


def test_an_unreadable_evaluation_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        Fingerprints.read([path])


def test_a_licence_other_than_expected_is_refused(tmp_path: Path, sources: SourceList) -> None:
    make_wheel(tmp_path, "alpha", "1.0", "Apache-2.0", {"a.py": module(1)})
    with pytest.raises(ConfigError, match=r"says 'Apache-2\.0' and the list expects 'MIT'"):
        collect(sources, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_share", "max_shares"), "did you mean `max_share`"),
        (('version = "1.0"', ""), "`version` is missing"),
        (('"omega"', '"Alpha"'), "listed twice: alpha"),
        (("max_share = 1.0", 'max_share = "1"'), "is not of type float"),
    ],
)
def test_the_list_is_read_strictly(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "sources.toml"
    path.write_text(SOURCES.replace(*change))
    with pytest.raises(ConfigError, match=message):
        SourceList.read(path)


def test_a_list_may_not_be_long(tmp_path: Path) -> None:
    entry = '[[train]]\nname = "p{}"\nversion = "1"\nlicence = "MIT"\n'
    path = tmp_path / "sources.toml"
    entries = "".join(entry.format(i) for i in range(61))
    path.write_text("standard_library = false\nmax_share = 0.1\nheld_out = []\n" + entries)
    with pytest.raises(ConfigError, match="61 projects, at most 60"):
        SourceList.read(path)


def test_the_shipped_list_holds_out_the_frozen_projects() -> None:
    path = Path(__file__).parents[2] / "recipes" / "corpus" / "sources.toml"
    held_out = {p.name for p in SourceList.read(path).held_out}
    assert held_out == {"flask", "httpx", "attrs", "tornado", "peewee", "networkx", "xarray"}
