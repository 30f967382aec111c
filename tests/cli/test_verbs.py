"""Every verb on real checkpoints: one tiny random model in three formats."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import run

from checkpoints_tiny import TINY, tiny_config, write_hf
from codellama import LLM, SamplingParams
from codellama.cli.sizes import human_bytes, human_count, weight_bytes
from codellama.model.family import MEMBERS
from codellama.quant.formats import Format

GREEDY = ("--temperature", "0", "--max-tokens", "12", "--threads", "1")


def ok(*arguments: str | Path, stdin: str = "") -> str:
    done = run(*arguments, stdin=stdin.encode())
    assert done.code == 0, done.err
    return done.out.decode()


@pytest.fixture(scope="module")
def llm(hf_folder: Path) -> LLM:
    return LLM.load(hf_folder, n_threads=1)


@pytest.fixture(params=["hf", "meta", "gguf"])
def model(request: pytest.FixtureRequest, hf_folder: Path) -> Path:
    kinds = {"meta": "meta_folder", "gguf": "gguf_file"}
    path: Path = request.getfixturevalue(kinds.get(request.param, "hf_folder"))
    return path


def test_complete_is_what_the_library_says(llm: LLM, model: Path) -> None:
    expected = llm.complete("def x", SamplingParams(temperature=0, max_tokens=12)).text
    assert ok("complete", "def x", "--model", model, *GREEDY) == expected
    assert ok("complete", "--model", model, *GREEDY, stdin="def x") == expected


@pytest.mark.parametrize("verb", ["complete", "infill", "chat"])
def test_another_process_says_the_same(hf_folder: Path, verb: str) -> None:
    text = ("--prefix", "def x", "--suffix", " return") if verb == "infill" else ("def x",)
    form = ("--chat-form", "inst") if verb == "chat" else ()
    words = [verb, *text, *form, "--model", str(hf_folder), *GREEDY]
    done = subprocess.run(
        [sys.executable, "-m", "codellama", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == run(*words).out


def test_infill_is_what_the_library_says(llm: LLM, hf_folder: Path, tmp_path: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=12)
    for order in ("psm", "spm"):
        middle = llm.infill(prefix="def x", suffix=" return", params=params, order=order).text
        flags = ("--model", hf_folder, "--order", order, *GREEDY)
        assert ok("infill", "--prefix", "def x", "--suffix", " return", *flags) == middle
        file = tmp_path / f"{order}.py"
        file.write_text("def x return")
        assert ok("infill", file, "--at", "1:6", "--write", *flags) == middle
        assert file.read_text() == f"def x{middle} return"


def test_chat_is_what_the_library_says(llm: LLM, hf_folder: Path) -> None:
    chat = LLM.load(hf_folder, n_threads=1, chat_form="inst")
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "def x"}]
    expected = chat.chat(messages, SamplingParams(temperature=0, max_tokens=12)).text
    flags = ("--system", "S", "--chat-form", "inst", "--model", hf_folder, *GREEDY)
    assert ok("chat", "def x", *flags) == expected


def test_a_model_that_was_not_trained_to_chat_says_so(hf_folder: Path) -> None:
    done = run("chat", "x", "--model", hf_folder)
    assert done.code == 1
    assert "does not say that it was trained to chat" in done.err


def test_json_lines(hf_folder: Path) -> None:
    flags = ("--model", hf_folder, "--n", "3", "--seed", "5", "--temperature", "1")
    out = ok("complete", "def x", *flags, "--max-tokens", "4", "--logprobs", "2", "--json")
    found: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 3
    for item in found:
        assert set(item) == {
            "text", "token_ids", "finish_reason", "prompt_tokens", "seed", "logprobs", "timings",
            "model",
        }  # fmt: skip
        assert item["model"] == str(hf_folder)
        assert item["finish_reason"] in ("length", "stop")
        assert len(item["logprobs"]) == len(item["token_ids"])
        for token, logged in zip(item["token_ids"], item["logprobs"], strict=True):
            assert logged["token_id"] == token
            assert logged["logprob"] <= 0
            assert len(logged["top"]) == 2
    assert len({tuple(item["token_ids"]) for item in found}) > 1
    assert ok("complete", "def x", *flags, "--max-tokens", "4", "--json").splitlines() != []


def test_the_seed_that_is_shown_repeats_the_result(hf_folder: Path) -> None:
    flags = ("complete", "def x", "--model", hf_folder, "--temperature", "2", "--max-tokens", "20")
    first = run(*flags)
    seed = first.err.split("seed ")[1].split()[0]
    again = run(*flags, "--seed", seed)
    other = run(*flags, "--seed", str(int(seed) ^ 1))
    assert first.out == again.out
    assert first.out != other.out


def test_the_seed_in_json_repeats_one_of_several(hf_folder: Path) -> None:
    flags = ("complete", "def x", "--model", hf_folder, "--temperature", "2", "--json")
    last = json.loads(ok(*flags, "--n", "3", "--max-tokens", "9").splitlines()[-1])
    alone = json.loads(ok(*flags, "--seed", str(last["seed"]), "--max-tokens", "9"))
    assert alone["token_ids"] == last["token_ids"]


def test_a_stop_string_ends_the_text(llm: LLM, hf_folder: Path) -> None:
    text = llm.complete("def x", SamplingParams(temperature=0, max_tokens=12)).text
    stop = text[2:4]
    flags = ("--model", hf_folder, *GREEDY, "--stop", stop.replace("\n", r"\n"))
    assert ok("complete", "def x", *flags) == text[: text.index(stop)]


def test_a_prompt_beyond_the_context_is_refused(hf_folder: Path) -> None:
    done = run("complete", "--model", hf_folder, "--max-seq-len", "16", stdin=b"x " * 50)
    assert (done.code, done.out) == (1, b"")
    assert "this model was loaded to keep 16" in done.err
    assert "  → " in done.err


def test_the_torch_engine(hf_folder: Path, llm: LLM) -> None:
    expected = llm.complete("def x", SamplingParams(temperature=0, max_tokens=4)).text
    flags = ("--temperature", "0", "--max-tokens", "4", "--engine", "torch")
    assert ok("complete", "def x", "--model", hf_folder, *flags) == expected


def test_info(model: Path) -> None:
    found = json.loads(ok("info", model, "--json"))
    assert found["kind"] in ("hf", "meta", "gguf")
    assert found["parameters"] == TINY.n_params
    assert found["infilling"] is True
    assert found["chat_form"] is None
    assert found["members"] == []
    assert found["config"]["n_kv_heads"] == 2
    assert found["memory"]["kv_cache_full_context"] == (
        found["config"]["max_seq_len"] * 2 * 2 * 2 * 16 * 4
    )
    assert sum(found["tensor_formats"].values()) == len(TINY.tensor_shapes())
    page = ok("info", model)
    for text in ("no member of the Code Llama family", "RoPE base", "1,000,000", "weights in Q4_0"):
        assert text in page


def test_info_reads_no_weights(hf_folder: Path, tmp_path: Path) -> None:
    sparse = shutil.copytree(hf_folder, tmp_path / "sparse")
    weights = sparse / "model.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little") + 8
    size = weights.stat().st_size
    with weights.open("r+b") as file:  # as long as before, and nothing behind the header
        file.truncate(header)
        file.truncate(size)
    assert json.loads(ok("info", sparse, "--json"))["weight_bytes"] == size - header


def test_models() -> None:
    rows = {item["name"]: item for item in map(json.loads, ok("models", "--json").splitlines())}
    assert [name for name in rows if name != "nano"] == [member.name for member in MEMBERS]
    # Parameter counts of the fact sheets: 7B and 70B with 32016 pieces.
    assert rows["CodeLlama-7B"]["parameters"] == 6_738_546_688
    assert rows["CodeLlama-70B"]["parameters"] == 68_976_910_336
    page = ok("models")
    assert all(member.hub_name in page for member in MEMBERS)


def test_convert(gguf_file: Path, hf_folder: Path, tmp_path: Path) -> None:
    dst = tmp_path / "out"
    done = run("convert", gguf_file, dst, "--dtype", "f32")
    assert (done.code, done.out.decode()) == (0, f"{dst}\n"), done.err
    assert "100 % of 21 tensors" in done.err
    assert ok("complete", "def x", "--model", dst, *GREEDY) == ok(
        "complete", "def x", "--model", hf_folder, *GREEDY
    )
    again = run("convert", gguf_file, dst, "--quiet")
    assert (again.code, again.out) == (1, b"")
    assert "exists" in again.err
    forced = run("convert", gguf_file, dst, "--force", "--dtype", "bf16", "--quiet")
    assert (forced.code, forced.err) == (0, "")
    assert json.loads(ok("info", dst, "--json"))["tensor_formats"] == {"BF16": 21}


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"


@pytest.mark.parametrize("verb", ["complete", "info"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (b"", "model.safetensors: is empty"),
        (LFS, "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (None, "model.safetensors"),
    ],
)
def test_damaged_weights_are_named(
    tmp_path: Path, hf_folder: Path, verb: str, damage: bytes | None, says: str
) -> None:
    folder = shutil.copytree(hf_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if damage is None else damage)
    done = run("info", folder) if verb == "info" else run("complete", "x", "--model", folder)
    assert (done.code, done.out) == (1, b"")
    assert says in done.err
    assert "Traceback" not in done.err
    assert "bug" not in done.err


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "model", n_shards=2)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    done = run("complete", "x", "--model", folder)
    assert done.code == 1
    assert shard.name in done.err
    shard.unlink()
    done = run("complete", "x", "--model", folder)
    assert done.code == 1
    assert shard.name in done.err


def test_a_path_that_leads_nowhere_suggests_one_that_does(tmp_path: Path, hf_folder: Path) -> None:
    shutil.copytree(hf_folder, tmp_path / "CodeLlama-7b")
    done = run("complete", "x", "--model", tmp_path / "CodeLama-7b")
    assert done.code == 1
    assert "there is no such file or folder" in done.err
    assert f"did you mean {tmp_path / 'CodeLlama-7b'}?" in done.err
    done = run("info", "codellama-7b")
    assert done.code == 1
    assert "did you mean codellama/CodeLlama-7b-hf?" in done.err


def test_sizes_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 12345, 999_600, 3_791_000_000, None)] == [
        "0 B", "999 B", "1.00 kB", "12.3 kB", "1.00 MB", "3.79 GB", "-",
    ]  # fmt: skip
    assert [human_count(n) for n in (7, 12_300_000, 6_738_546_688, 68_976_910_336)] == [
        "7", "12.3M", "6.74B", "69.0B",
    ]  # fmt: skip


def test_weights_that_do_not_fit_blocks_have_no_block_size() -> None:
    odd = tiny_config(dim=48, n_heads=3, n_kv_heads=3)
    assert weight_bytes(odd, Format.Q4_0) is None
    assert weight_bytes(odd, Format.BF16) == sum(
        2 * rows[0] * rows[1] if len(rows) == 2 else 4 * rows[0]
        for rows in odd.tensor_shapes().values()
    )
