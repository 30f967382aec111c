"""`codellama bench`: the object, the table, the picture and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command import run

from codellama.bench import limits

QUICK = ("--prefill", "8,4", "--decode", "2", "--repeat", "1", "--threads", "1", "--no-start")

WORK = {
    "work": str, "kind": str, "n": int, "streams": int, "tok_s": float, "tok_s_low": float,
    "tok_s_high": float, "samples": list, "limit_share": float,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real measurement, over less memory and fewer passes."""
    monkeypatch.setattr(limits, "_DRAM_BYTES", 1 << 22)
    monkeypatch.setattr(limits, "_PEAK_PASSES", 1)


def bench(*arguments: str | Path) -> dict[str, Any]:
    done = run("bench", *arguments, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_the_object_holds_what_it_promises(gguf_file: Path) -> None:
    found = bench(gguf_file, *QUICK, "--streams", "3")
    for key in ("prefill", "decode", "streams"):
        for name, kind in WORK.items():
            assert isinstance(found[key][name], kind), (key, name)
        assert found[key]["tok_s"] > 0
        assert found[key]["limit_share"] > 0
        assert found[key]["peer_tok_s"] is found[key]["ratio"] is None
    assert [work["work"] for work in found["works"]] == [
        "prefill 8", "prefill 4", "decode 2", "decode 2 x 3 streams",
    ]  # fmt: skip
    assert found["prefill"] == found["works"][0]
    assert found["decode"] == found["works"][2]
    assert found["streams"] == found["works"][3]
    assert 1 < found["rss_mb"] <= found["peak_rss_mb"]
    assert found["start_s"] is None
    machine = found["machine"]
    assert machine["cpu"]
    assert machine["cores"] > 0
    assert machine["memory_gb"] > 0
    assert machine["kernel"]
    assert machine["versions"]["python"]
    assert machine["date"].startswith("20")
    assert found["limits"]["read_gb_s"] > 0
    assert found["format"] == "F32"


def test_shares_follow_from_what_the_object_says(gguf_file: Path) -> None:
    found = bench(gguf_file, *QUICK)
    prefill, decode, roof = found["prefill"], found["decode"], found["limits"]
    expected = prefill["tok_s"] * prefill["ops_per_token"] / (1e9 * roof["fp32_gflop_s"])
    assert prefill["limit_share"] == pytest.approx(expected, rel=1e-4)
    expected = decode["tok_s"] * decode["bytes_per_token"] / (1e9 * roof["read_gb_s"])
    assert decode["limit_share"] == pytest.approx(expected, rel=1e-4)


def test_nano_is_measured_from_start_to_first_token() -> None:
    quick = [word for word in QUICK if word != "--no-start"]
    found = bench(*quick)
    assert found["model"] == "nano"
    assert found["start_s"] > found["interpreter_s"] > 0
    assert found["start_own_s"] == pytest.approx(
        found["start_s"] - found["interpreter_s"], abs=1e-4
    )


def test_the_table_is_for_people(gguf_file: Path) -> None:
    done = run("bench", gguf_file, *QUICK)
    assert done.code == 0, done.err
    page = done.out.decode()
    for word in ("prefill 8", "decode 2", "of the limit", "GB/s", "MB resident"):
        assert word in page
    assert "repetition 1 of 1" in done.err


def test_a_peer_gets_the_same_file_in_turns(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codellama.bench import peers
    from codellama.bench.process import BODIES

    # A peer that is our own engine: the file it is given must be one that runs.
    twin = peers.Peer(name="twin", body=BODIES / "own.py", module="codellama", install="nothing")
    monkeypatch.setitem(peers.PEERS, "llama-cpp", twin)
    found = bench(hf_folder, *QUICK, "--against", "llama-cpp", "--plot", tmp_path / "roof.svg")
    assert found["path"].endswith(".gguf")
    for work in found["works"]:
        assert work["ratio"] == pytest.approx(work["tok_s"] / work["peer_tok_s"], rel=1e-4)
        assert work["peer_limit_share"] > 0
    assert found["peer"]["rss_mb"] > 1
    picture = (tmp_path / "roof.svg").read_text()
    assert "<svg" in picture
    done = run("bench", hf_folder, *QUICK, "--against", "llama-cpp", "--format", "q8_0", "--quiet")
    assert done.code == 0, done.err
    assert "twin tok/s" in done.out.decode()
    assert "Q8_0" in done.out.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--shape", "s", "nano"), 2, "give MODEL or --shape, not both"),
        (("--peer-python", sys.executable), 2, "--against"),
        (("--prefill", "0"), 2, "not a number from 1"),
        (("--prefill", "5,x"), 2, "not a number from 1"),
        (("--repeat", "-1"), 2, "not a number from 1"),
        (("--plot", "roof.pdf"), 1, "a picture is .svg or .png"),
        (("--plot", "no/such/folder/roof.svg"), 1, "there is no folder no/such/folder"),
        (("--against", "llama-cpp", "--peer-python", "/no/python"), 1, "cannot be run"),
        (("--format", "q4_k_m"), 2, "is for shapes"),
        (("nothing.gguf",), 1, "there is no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = run("bench", *arguments)
    assert done.code == code, done.err
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert not done.out


def test_choices_are_those_there_are() -> None:
    """The verb's help names them without loading what they mean."""
    from codellama.bench import peers, shapes
    from codellama.cli import bench

    assert tuple(shapes.SHAPES) == bench._SHAPES
    assert set(shapes.FORMATS) == set(bench._FORMATS)
    assert tuple(peers.PEERS) == bench._PEERS


def test_a_missing_peer_is_refused_with_how_to_install_it() -> None:
    done = run("bench", "--against", "llama-cpp", "--peer-python", sys.executable)
    assert done.code == 1
    assert "llama.cpp is not installed for" in done.err
    assert "pip install llama-cpp-python" in done.err
