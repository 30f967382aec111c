"""A tiny corpus, built from wheels made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.train.build import BuildSettings, build
from codellama.train.sources import SourceList, collect
from train_corpus import RECIPES, SOURCES, make_wheel, module


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    files = {f"part{i}.py": module(i) for i in range(60)}
    files["tests/test_part.py"] = module(900)
    files["broken.py"] = "def f(:\n" * 60
    files["twice.py"] = files["part0.py"]
    files["generated.py"] = "# This file was automatically generated.\n" + module(901)
    make_wheel(folder, "alpha", "1.0", "MIT", files)
    make_wheel(folder, "forbidden", "2.0", "GPL-3.0-only", {"part.py": module(902)})
    make_wheel(
        folder, "omega", "0.1", "BSD-3-Clause", {f"m{i}.py": module(950 + i) for i in range(3)}
    )
    return folder


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> SourceList:
    path = tmp_path_factory.mktemp("list") / "sources.toml"
    path.write_text(SOURCES)
    return SourceList.read(path)


@pytest.fixture(scope="session")
def corpus_folder(
    tmp_path_factory: pytest.TempPathFactory, wheels: Path, sources: SourceList
) -> Path:
    """A built corpus with a tokenizer of 512 pieces and conversations. Shared: do not change it."""
    out = tmp_path_factory.mktemp("corpus")
    settings = BuildSettings(
        n_pieces=512, chat=RECIPES / "corpus" / "chat.toml", n_conversations=150
    )
    build(collect(sources, wheels), out, settings)
    return out
