"""Meta's folders: every tensor accounted for, tokenizer and chat, and files that are not theirs."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoints_tiny import TINY, tiny_config, tiny_sentencepiece, write_meta
from codellama import checkpoint
from codellama.errors import CheckpointError
from hostile import SMALLEST, contents, cut, grow, refusal, rewrite, watch
from hostile_pth import State, change_state

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
def test_tensors_that_are_not_this_model_s_are_named(smallest_meta: Path, what: str) -> None:
    change, words = STATES[what]
    change_state(smallest_meta, change)
    assert words in refusal(smallest_meta)


def test_a_tensor_in_one_shard_only_is_refused(two_shards: Path) -> None:
    change_state(two_shards, lambda s: s.update(extra=torch.zeros(1)), 0)
    assert "'extra' is in only one of" in refusal(two_shards)
    change_state(two_shards, lambda s: s.update(extra=torch.zeros(1)), 1)
    assert "has 1 tensor that" in refusal(two_shards)


def test_rotary_tables_are_skipped_and_said_to_be(smallest_meta: Path) -> None:
    expected = contents(smallest_meta)
    tables = ["rope.freqs", "layers.0.attention.inner_attention.rope.freqs"]
    change_state(smallest_meta, lambda s: s.update({name: torch.ones(1) for name in tables}))
    reader = checkpoint.open(smallest_meta)
    assert contents(smallest_meta) == expected
    note = next(note for note in reader.notes if note.startswith("skipped"))
    assert "2 tensors" in note
    assert all(name in note for name in tables)
    assert len(reader.infos) == len(SMALLEST.tensor_shapes())


def test_infos_are_what_comes(two_shards: Path) -> None:
    reader = checkpoint.open(two_shards)
    assert reader.kind == "meta"
    assert reader.path == two_shards
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
def test_what_is_there_instead_is_named(smallest_meta: Path, data: bytes, words: str) -> None:
    (smallest_meta / "consolidated.00.pth").write_bytes(data)
    text = refusal(smallest_meta)
    assert words in text
    assert "consolidated.00.pth" in text


def test_opening_and_reading_touch_nothing_else(smallest_meta: Path) -> None:
    contents(smallest_meta)
    with watch() as watched:
        contents(smallest_meta)
    assert watched.others == []
    names = {Path(path).name for path in watched.opened}
    assert names == {"params.json", "consolidated.00.pth"}


# --- files that change meanwhile


@pytest.mark.parametrize("change", [cut, grow, rewrite], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_a_file_that_changes_is_noticed(
    two_shards: Path, change: Callable[[Path], None], n_before: int
) -> None:
    tensors = checkpoint.open(two_shards).tensors()
    for _ in range(n_before):
        next(tensors)
    path = two_shards / "consolidated.01.pth"
    os.utime(path, ns=(0, 0))
    change(path)
    with pytest.raises(CheckpointError, match=r"changed while it was being read|checksum"):
        list(tensors)


def test_a_file_that_is_replaced_or_removed_is_read_to_its_end(two_shards: Path) -> None:
    expected = contents(two_shards)
    reader = checkpoint.open(two_shards)
    shutil.rmtree(two_shards)
    found = {name: (str(t.format), t.shape, t.data.tobytes()) for name, t in reader.tensors()}
    assert found == expected
