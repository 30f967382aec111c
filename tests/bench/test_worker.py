"""Engines in processes of their own: what they answer, and what is said when they cannot."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codellama.bench.peers import PEERS, require
from codellama.bench.process import BODIES, EngineProcess, EngineSpec
from codellama.errors import ConfigError, EngineFailed

BODY = """
import sys
class Body:
    about = {"name": "fake", "seen": None}
    def prefill(self, n):
        print("noise that is no answer")
        if n == 13:
            raise ValueError("no luck")
        if n == 14:
            sys.stderr.write("first\\nlast words\\n")
            sys.stderr.flush()
            import os; os._exit(9)
    def decode(self, n, n_streams):
        pass
def load(model, n_threads, context, n_streams):
    Body.about["seen"] = [model, n_threads, context, n_streams]
    return Body()
"""


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    body = tmp_path / "body.py"
    body.write_text(BODY)
    return EngineSpec(name="fake", body=body, model="m", n_threads=3, context=40, n_streams=2)


def test_work_is_timed_and_noise_is_kept_out(spec: EngineSpec) -> None:
    with EngineProcess(spec) as engine:
        assert engine.about == {"name": "fake", "seen": ["m", 3, 40, 2]}
        assert engine.prefill(5) >= 0
        assert engine.decode(5, 2) >= 0
        now, peak = engine.memory()
        assert 1 < now <= peak
    engine.close()  # once is enough, twice does no harm


def test_an_error_comes_back_as_a_sentence(spec: EngineSpec) -> None:
    with EngineProcess(spec) as engine, pytest.raises(EngineFailed, match=r"fake: .*no luck"):
        engine.prefill(13)


def test_a_process_that_dies_is_reported_with_its_last_words(spec: EngineSpec) -> None:
    with EngineProcess(spec) as engine:
        with pytest.raises(EngineFailed, match="code 9 and no answer: last words"):
            engine.prefill(14)
        with pytest.raises(EngineFailed, match="code 9"):
            engine.prefill(1)


def test_our_own_engine_says_what_is_wrong_with_a_model(spec: EngineSpec, tmp_path: Path) -> None:
    own = replace(spec, body=BODIES / "own.py", model=str(tmp_path / "nothing.gguf"))
    with pytest.raises(EngineFailed, match="there is no such file"):
        EngineProcess(own)


def test_our_own_engine_runs_through_the_runner(spec: EngineSpec, hf_folder: Path) -> None:
    own = replace(spec, body=BODIES / "own.py", model=str(hf_folder), n_threads=1)
    with EngineProcess(own) as engine:
        assert engine.about["cost"]["body_macs"] > 0
        assert engine.prefill(30) > 0
        assert engine.decode(3, 2) > 0


def test_a_python_that_is_not_there_is_named(spec: EngineSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be run"):
        EngineProcess(replace(spec, python=tmp_path / "python"))


def test_a_peer_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    peer = replace(PEERS["llama-cpp"], module="surely_not_installed")
    with pytest.raises(ConfigError, match=r"llama\.cpp is not installed for") as caught:
        require(peer, Path(sys.executable))
    assert caught.value.hint is not None
    assert "pip install llama-cpp-python" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot be run"):
        require(peer, tmp_path / "python")
