"""Meta's folders: sizes from params.json, shards joined, everything accounted for."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints_tiny import TINY, tiny_config, tiny_sentencepiece, tiny_weights, write_meta
from codellama import checkpoint
from codellama.checkpoint import meta
from codellama.checkpoint.meta_params import config_from_params
from codellama.errors import CheckpointError, CodeLlamaError, ConfigError
from codellama.model.family import MEMBERS
from hostile import SMALLEST, contents, outcome, watch
from hostile_pth import put

State = dict[str, torch.Tensor]

# What Meta's files say (but for the vocabulary, which they leave out).
PARAMS_7B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256,
             "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "rope_theta": 1000000}  # fmt: skip
PARAMS = {
    "7B": PARAMS_7B,
    "13B": PARAMS_7B | {"dim": 5120, "n_layers": 40, "n_heads": 40},
    "34B": PARAMS_7B | {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8},
    "70B": PARAMS_7B
    | {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096,
       "ffn_dim_multiplier": 1.3},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_meta(tmp_path / "model", SMALLEST, tokenizer=False)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A model in two files."""
    return write_meta(tmp_path / "two", n_shards=2, tokenizer=False)


def refusal(path: Path, kind: type[CodeLlamaError] = CheckpointError) -> str:
    error = outcome(path)
    assert isinstance(error, kind), "this should have been refused"
    assert str(path) in str(error)
    return str(error)


def change_params(folder: Path, **changes: Any) -> None:
    path = folder / "params.json"
    params = json.loads(path.read_text())
    for key, value in changes.items():
        params.pop(key, None)
        if value is not ...:
            params[key] = value
    path.write_text(json.dumps(params))


def change_state(folder: Path, change: Callable[[State], object], shard: int = 0) -> None:
    path = folder / f"consolidated.{shard:02d}.pth"
    state = torch.load(path, weights_only=True)
    change(state)
    out = io.BytesIO()
    torch.save(state, out)
    put(path, out.getvalue())


# --- sizes


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_params_json_gives_the_family_s_sizes(member: Any) -> None:
    params = dict(PARAMS[member.size])
    if member.config.rope_theta == 1e4:
        del params["rope_theta"]
    config, notes = config_from_params(params, "params.json", member.config.vocab_size)
    assert config == member.config
    assert any(f"context length {config.max_seq_len}" in note for note in notes)
    assert any(note.startswith("rotary base") for note in notes) == ("rope_theta" not in params)


def test_keys_that_are_absent_have_the_values_of_meta_s_code(tmp_path: Path) -> None:
    config = tiny_config(n_kv_heads=4, ffn_dim=256, rope_theta=1e4)
    folder = write_meta(tmp_path, config, tokenizer=False)
    change_params(folder, rope_theta=..., multiple_of=..., ffn_dim_multiplier=...)
    reader = checkpoint.open(folder)
    assert reader.config == tiny_config(n_kv_heads=4, ffn_dim=256, rope_theta=1e4, max_seq_len=4096)
    assert reader.notes[0].startswith("rotary base 10000: params.json gives none")
    assert reader.notes[1].startswith("context length 4096")
    change_params(folder, rope_theta=None, n_kv_heads=None, ffn_dim_multiplier=None, vocab_size=-1)
    assert checkpoint.open(folder).config == reader.config
    change_params(folder, vocab_size=config.vocab_size, use_scaled_rope=False)
    assert checkpoint.open(folder).config == reader.config


BIG = [1 << 31, 1 << 63, 10**19]
WRONG_PARAMS: list[tuple[str, Any]] = [
    *((key, value) for key in ("dim", "n_layers", "n_heads")
      for value in (..., None, 0, -1, 1.0, "2", True, [1], {}, *BIG)),
    *((key, value) for key in ("n_kv_heads", "multiple_of")
      for value in (0, -1, 1.5, "2", True, [], *BIG)),
    *(("ffn_dim_multiplier", value) for value in (0, -1, "1", True, [], 1e300, 1e3)),
    *(("norm_eps", value) for value in (..., None, 0, -1e-5, "1e-5", True, 1e300)),
    *(("rope_theta", value) for value in (0, -1, "10000", True, [], 1e300)),
    *(("vocab_size", value) for value in (0, -2, 321, "320", True, [], 1 << 63)),
    ("use_scaled_rope", True), ("use_scaled_rope", 1), ("quantization_args", {}),
    ("n_expert", 8), ("max_seq_len", 16384), ("", 1), ("dIm", 64),
    ("n_kv_heads", 3), ("n_heads", 3), ("n_heads", 5), ("n_heads", 64),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG_PARAMS, ids=lambda v: str(v)[:20])
def test_params_that_cannot_be_are_named(tmp_path: Path, key: str, value: Any) -> None:
    folder = write_meta(tmp_path, tokenizer=False)
    change_params(folder, **{key: value})
    text = refusal(folder, ConfigError)
    assert "params.json" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 128}, "wrong shape"),
        ({"dim": 32, "n_heads": 2}, "wrong shape"),
        ({"n_layers": 1}, "that a 1-layer model does not"),
        ({"n_layers": 3}, "is missing 9 tensors of a 3-layer model"),
        ({"n_layers": 1 << 30}, "promises 1073741824 layers"),
        ({"n_heads": 8}, "wrong shape"),
        ({"n_kv_heads": 4}, "wrong shape"),
        ({"n_kv_heads": 1}, "wrong shape"),
        ({"multiple_of": 97}, "wrong shape"),
        ({"ffn_dim_multiplier": None}, "wrong shape"),
    ],
    ids=str,
)
def test_params_of_another_model_are_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Mixed sizes, and a feed-forward width that the rule gives and the weights do not have."""
    folder = write_meta(tmp_path, tokenizer=False)
    change_params(folder, **changes)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"1", b'{"dim": 1, "dim": 2}', b'{"dim": NaN}', b"\xff", b"{}x"]
)
def test_params_that_are_not_strict_json(folder: Path, text: bytes) -> None:
    (folder / "params.json").write_bytes(text)
    assert "params.json" in refusal(folder)


def test_params_json_is_needed_and_small(folder: Path) -> None:
    (folder / "params.json").write_text(" " * (1 << 20) + "{}")
    assert "at most" in refusal(folder)
    (folder / "params.json").unlink()
    assert "params.json" in refusal(folder)


# --- files


def test_the_shards_are_numbered_without_a_gap(two: Path) -> None:
    shutil.copy(two / "consolidated.01.pth", two / "consolidated.03.pth")
    assert "consolidated.02.pth is missing" in refusal(two)
    (two / "consolidated.00.pth").unlink()
    assert "consolidated.00.pth is missing" in refusal(two)


@pytest.mark.parametrize("middle", ["0", "00 (1)", "x", "", "٠١", "00.pth", "00.PTH", "001"])
def test_a_shard_of_another_name_is_refused(two: Path, middle: str) -> None:
    shutil.copy(two / "consolidated.01.pth", two / f"consolidated.{middle}.pth")
    assert "consolidated.NN.pth" in refusal(two)


def test_there_are_at_most_eight_shards(two: Path) -> None:
    for i in range(2, 9):
        shutil.copy(two / "consolidated.01.pth", two / f"consolidated.{i:02d}.pth")
    assert "more than 8" in refusal(two)


def test_a_folder_without_shards_is_refused(folder: Path) -> None:
    (folder / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match="holds no consolidated"):
        meta.open(folder)


@pytest.mark.parametrize(("n_shards", "n_left"), [(2, 1), (4, 1), (4, 2)])
def test_shards_that_were_not_downloaded_are_counted(
    tmp_path: Path, n_shards: int, n_left: int
) -> None:
    folder = write_meta(tmp_path, tiny_config(n_kv_heads=4), n_shards=n_shards, tokenizer=False)
    for i in range(n_left, n_shards):
        (folder / f"consolidated.{i:02d}.pth").unlink()
    assert f"has {n_left} of {n_shards} consolidated files" in refusal(folder)


def test_a_shard_too_many_is_refused(two: Path) -> None:
    shutil.copy(two / "consolidated.01.pth", two / "consolidated.02.pth")
    assert "wrong shape" in refusal(two)


def test_a_shard_of_another_model_is_refused(two: Path, tmp_path: Path) -> None:
    others = {
        "smaller": tiny_config(dim=32, head_dim=8),
        "longer": tiny_config(n_layers=3),
        "of another vocabulary": tiny_config(vocab_size=324),
    }
    for name, config in others.items():
        other = write_meta(tmp_path / name, config, n_shards=2, tokenizer=False)
        for i in range(2):
            mixed = shutil.copytree(two, tmp_path / f"{name} {i}")
            file = f"consolidated.{i:02d}.pth"
            shutil.copy(other / file, mixed / file)
            assert "parts do not fit" in (text := refusal(mixed)) or "only one of" in text


def test_shards_of_two_trainings_are_found_by_their_norms(two: Path, tmp_path: Path) -> None:
    """Same sizes, other numbers: only what should be the same in all files can tell."""
    other = write_meta(
        tmp_path / "other", weights=tiny_weights(seed=1), n_shards=2, tokenizer=False
    )
    shutil.copy(other / "consolidated.01.pth", two / "consolidated.01.pth")
    text = refusal(two)
    assert "hold different values" in text
    assert "norm" in text


def test_shards_in_different_formats_are_refused(two: Path, tmp_path: Path) -> None:
    other = write_meta(tmp_path / "other", n_shards=2, dtype="F16", tokenizer=False)
    shutil.copy(other / "consolidated.01.pth", two / "consolidated.01.pth")
    text = refusal(two)
    assert "BF16" in text
    assert "F16" in text.replace("BF16", "")


def test_formats_may_differ_from_tensor_to_tensor(folder: Path) -> None:
    def widen(state: State) -> None:
        state["norm.weight"] = state["norm.weight"].float()
        state["output.weight"] = state["output.weight"].half()

    before = {name: tensor.to_float32() for name, tensor in checkpoint.open(folder).tensors()}
    change_state(folder, widen)
    reader = checkpoint.open(folder)
    assert {name: info.format for name, info in reader.infos.items() if info.format != "BF16"} == {
        "norm.weight": "F32",
        "lm_head.weight": "F16",
    }
    for name, tensor in reader.tensors():
        assert np.array_equal(tensor.to_float32(), before[name])


# --- tensors


def rename(old: str, new: str) -> Callable[[State], object]:
    return lambda state: state.update({new: state.pop(old)})


W1 = "layers.0.feed_forward.w1.weight"
STATES: dict[str, tuple[Callable[[State], object], str]] = {
    "one missing": (lambda s: s.pop(W1), "layers.0.mlp.gate_proj.weight"),
    "no embeddings": (lambda s: s.pop("tok_embeddings.weight"), "tok_embeddings.weight"),
    "no head": (lambda s: s.pop("output.weight"), "lm_head.weight"),
    "none at all": (lambda s: s.clear(), "tok_embeddings.weight"),
    "an unknown one": (lambda s: s.update(x=torch.zeros(2)), "'x'"),
    "a bias": (lambda s: s.update({W1.replace("weight", "bias"): torch.zeros(2)}), "w1.bias"),
    "a Hugging Face name": (rename(W1, "layers.0.mlp.gate_proj.weight"), "gate_proj"),
    "a name with model.": (rename(W1, "model." + W1), "model.layers"),
    "another layer": (rename(W1, W1.replace("0", "1")), "is missing 1 tensor"),
    "a layer with a zero in front": (rename(W1, W1.replace("0", "00")), "layers.00"),
    "a negative layer": (rename(W1, W1.replace("0", "-1")), "layers.-1"),
    "an Arabic layer": (rename(W1, W1.replace("0", "٠")), "has 1 tensor that"),
    "another case": (rename(W1, W1.upper()), "LAYERS"),
    "a space behind": (rename(W1, W1 + " "), "has 1 tensor that"),
    "a newline behind": (rename(W1, W1 + "\n"), "has 1 tensor that"),
    "a NUL behind": (rename(W1, W1 + "\0"), "has 1 tensor that"),
    "a path": (rename(W1, "../" + W1), "has 1 tensor that"),
    "an absolute path": (rename(W1, "/etc/passwd"), "/etc/passwd"),
    "a backslash": (rename(W1, W1.replace(".", "\\")), "has 1 tensor that"),
    "a very long name": (rename(W1, "x" * 10_000), "has 1 tensor that"),
    "transposed": (lambda s: s.update({W1: torch.zeros(4, 2)}), "wrong shape"),
    "flat": (lambda s: s.update({W1: s[W1].reshape(-1)}), "wrong shape"),
    "three dimensions": (lambda s: s.update({W1: s[W1][None]}), "wrong shape"),
    "a number": (lambda s: s.update({W1: torch.tensor(1.0)}), "wrong shape"),
    "a wide norm": (lambda s: s.update({"norm.weight": torch.ones(3)}), "wrong shape"),
    "a norm as a matrix": (lambda s: s.update({"norm.weight": torch.ones(1, 2)}), "wrong shape"),
    "flat embeddings": (
        lambda s: s.update({"tok_embeddings.weight": torch.ones(6)}), "tok_embeddings"),
    "embeddings for more": (
        lambda s: s.update({"tok_embeddings.weight": torch.ones(4, 2)}), "wrong shape"),
    "whole numbers": (lambda s: s.update({W1: s[W1].int()}), "torch.IntStorage"),
    "doubles": (lambda s: s.update({W1: s[W1].double()}), "torch.DoubleStorage"),
    "tied": (lambda s: s.update({"output.weight": s["tok_embeddings.weight"]}), "share"),
}  # fmt: skip


@pytest.mark.parametrize("what", STATES)
def test_tensors_that_are_not_this_model_s_are_named(folder: Path, what: str) -> None:
    change, words = STATES[what]
    change_state(folder, change)
    assert words in refusal(folder)


def test_a_tensor_in_one_shard_only_is_refused(two: Path) -> None:
    change_state(two, lambda s: s.update(extra=torch.zeros(1)), 0)
    assert "'extra' is in only one of" in refusal(two)
    change_state(two, lambda s: s.update(extra=torch.zeros(1)), 1)
    assert "has 1 tensor that" in refusal(two)


def test_rotary_tables_are_skipped_and_said_to_be(folder: Path) -> None:
    expected = contents(folder)
    tables = ["rope.freqs", "layers.0.attention.inner_attention.rope.freqs"]
    change_state(folder, lambda s: s.update({name: torch.ones(1) for name in tables}))
    reader = checkpoint.open(folder)
    assert contents(folder) == expected
    note = next(note for note in reader.notes if note.startswith("skipped"))
    assert "2 tensors" in note
    assert all(name in note for name in tables)
    assert len(reader.infos) == len(SMALLEST.tensor_shapes())


def test_infos_are_what_comes(two: Path) -> None:
    reader = checkpoint.open(two)
    assert reader.kind == "meta"
    assert reader.path == two
    assert {name: info.shape for name, info in reader.infos.items()} == TINY.tensor_shapes()
    names = []
    for name, tensor in reader.tensors():
        info = reader.infos[name]
        assert (tensor.format, tensor.shape, tensor.n_bytes) == (
            info.format, info.shape, info.n_bytes
        )  # fmt: skip
        assert not tensor.data.flags.writeable
        names.append(name)
    assert sorted(names) == sorted(TINY.tensor_shapes())
    assert sum(1 for _ in reader.tensors()) == len(names)  # and once more


def test_memory_holds_a_tensor_at_a_time(tmp_path: Path) -> None:
    config = tiny_config(dim=256, n_heads=4, n_kv_heads=4, head_dim=64, ffn_dim=512, n_layers=4)
    folder = write_meta(tmp_path, config, n_shards=4, dtype="F32", tokenizer=False)
    reader = checkpoint.open(folder)
    largest = max(info.n_bytes for info in reader.infos.values())
    whole = sum(info.n_bytes for info in reader.infos.values())
    assert whole > 20 * largest
    tracemalloc.start()
    for _ in reader.tensors():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * largest


# --- tokenizer, chat, generation


def test_the_tokenizer_is_the_folder_s(meta_folder: Path) -> None:
    reader = checkpoint.open(meta_folder)
    assert reader.tokenizer().to_spm_bytes() == (meta_folder / "tokenizer.model").read_bytes()
    assert reader.chat_template is None
    assert reader.chat_form is None
    assert (reader.generation.bos_id, reader.generation.eos_ids) == (None, ())


def test_the_tokenizer_may_lie_one_folder_above(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "llama-2-7b", tokenizer=False)
    (tmp_path / "tokenizer.model").write_bytes(tiny_sentencepiece())
    reader = checkpoint.open(folder)
    assert reader.tokenizer().n_vocab == 320
    assert "tokenizer.model is that of the folder above" in reader.notes
    here = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        assert checkpoint.open(".").tokenizer().n_vocab == 320
    finally:
        os.chdir(here)


def test_without_a_tokenizer_the_weights_can_still_be_seen(tmp_path: Path) -> None:
    folder = write_meta(tmp_path / "a" / "b", tokenizer=False)
    (tmp_path / "tokenizer.model").write_bytes(tiny_sentencepiece())  # two above does not count
    reader = checkpoint.open(folder)
    assert len(reader.infos) == len(TINY.tensor_shapes())
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.model"):
        reader.tokenizer()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_meta(tmp_path, tiny_config(vocab_size=319), tokenizer=False)
    (folder / "tokenizer.model").write_bytes(tiny_sentencepiece(320))
    with pytest.raises(CheckpointError, match="320 pieces, and the model embeds 319"):
        checkpoint.open(folder).tokenizer()


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_meta(tmp_path, tokenizer=False)
    for data in (b"", b"x", b"<html>", b"version https://git-lfs.github.com/spec/v1\n"):
        (folder / "tokenizer.model").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
            checkpoint.open(folder).tokenizer()


def test_a_step_piece_says_how_to_chat(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2 as pb

    folder = write_meta(tmp_path)
    model = pb.ModelProto.FromString(tiny_sentencepiece())
    model.pieces[-1].piece = "<step>"
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    assert checkpoint.open(folder).chat_form == "step"


# --- files that are not what they seem


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a link to a file outside": lambda path: path.symlink_to("/etc/hosts"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link upwards": lambda path: path.symlink_to("../outside"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
}


@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth", "tokenizer.model"])
@pytest.mark.parametrize("what", NOT_FILES)
def test_only_regular_files_inside_are_opened(tmp_path: Path, name: str, what: str) -> None:
    folder = write_meta(tmp_path / "model")
    checkpoint.open(folder).tokenizer()  # now all modules are there, and imports cannot be meant
    (folder / name).rename(tmp_path / "outside")
    NOT_FILES[what](folder / name)
    with watch() as watched, pytest.raises(CheckpointError) as caught:
        checkpoint.open(folder).tokenizer()
    assert name in str(caught.value)
    assert watched.others == []
    real = folder.resolve()
    assert all(Path(path).resolve().is_relative_to(real) for path in watched.opened)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>no such file</html>", "web page"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (b"GGUF" + bytes(100), "GGUF"),
        (bytes(1000), "not a zip archive"),
    ],
    ids=lambda v: str(v)[:12],
)
def test_what_is_there_instead_is_named(folder: Path, data: bytes, words: str) -> None:
    (folder / "consolidated.00.pth").write_bytes(data)
    text = refusal(folder)
    assert words in text
    assert "consolidated.00.pth" in text


def test_opening_and_reading_touch_nothing_else(folder: Path) -> None:
    contents(folder)
    with watch() as watched:
        contents(folder)
    assert watched.others == []
    names = {Path(path).name for path in watched.opened}
    assert names == {"params.json", "consolidated.00.pth"}


# --- files that change meanwhile


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def rewrite(path: Path) -> None:
    put(path, path.read_bytes()[::-1])


@pytest.mark.parametrize("change", [cut, grow, rewrite], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_a_file_that_changes_is_noticed(
    two: Path, change: Callable[[Path], None], n_before: int
) -> None:
    tensors = checkpoint.open(two).tensors()
    for _ in range(n_before):
        next(tensors)
    path = two / "consolidated.01.pth"
    os.utime(path, ns=(0, 0))
    change(path)
    with pytest.raises(CheckpointError, match=r"changed while it was being read|checksum"):
        list(tensors)


def test_a_file_that_is_replaced_or_removed_is_read_to_its_end(two: Path) -> None:
    expected = contents(two)
    reader = checkpoint.open(two)
    shutil.rmtree(two)
    found = {name: (str(t.format), t.shape, t.data.tobytes()) for name, t in reader.tensors()}
    assert found == expected
