"""GGUF files as converters write them: sizes, names, tokenizer, and what is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from checkpoints_tiny import TINY, tiny_config, tiny_weights, write_gguf
from codellama import checkpoint
from codellama.checkpoint.files import open_file
from codellama.checkpoint.gguf_config import config_from_metadata
from codellama.checkpoint.gguf_header import Header
from codellama.errors import CheckpointError, ConfigError
from codellama.model.family import MEMBERS
from codellama.quant.formats import Format, n_bytes
from hostile import SMALLEST, contents, cut, grow, outcome, put, rewrite, watch
from hostile_gguf import File, Listed, metadata, model, read


def test_infos_are_what_comes(gguf_file: Path) -> None:
    reader = checkpoint.open(gguf_file)
    assert (reader.kind, reader.path, reader.config) == ("gguf", gguf_file, TINY)
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
    assert reader.notes == ()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_metadata_gives_the_family_s_sizes(member: Any, gguf_path: Path) -> None:
    """32-bit floats stand for the decimals they were written as: the sizes are exactly equal."""
    put(gguf_path, replace(model(SMALLEST), pairs=metadata(member.config), tensors=[]).to_bytes())
    found = config_from_metadata(
        Header(open_file(gguf_path)).metadata,
        "here",
        vocab_size=member.config.vocab_size,
        tied=False,
    )
    assert found == member.config


def test_sizes_that_a_file_may_leave_out(gguf_path: Path) -> None:
    config = tiny_config(n_layers=1, n_kv_heads=4)
    file = model(config)
    for key in ("attention.head_count_kv", "rope.dimension_count", "vocab_size"):
        file = file.without(f"llama.{key}")
    assert read(gguf_path, file).config == config


def test_heads_may_be_narrower_or_wider_than_their_share(gguf_path: Path) -> None:
    for head_dim in (8, 32):
        config = tiny_config(head_dim=head_dim)
        reader = checkpoint.open(write_gguf(gguf_path, config))
        assert reader.config == config
        found = {name: tensor.to_float32() for name, tensor in reader.tensors()}
        weights = tiny_weights(config)
        assert all(np.array_equal(found[name], weights[name]) for name in weights)


def test_an_absent_output_is_the_embeddings_again(gguf_path: Path) -> None:
    file = model(SMALLEST)
    tied = replace(file, tensors=[t for t in file.tensors if t.name != "output.weight"])
    reader = read(gguf_path, tied)
    assert reader.config == replace(SMALLEST, tie_embeddings=True)
    assert "lm_head.weight" not in reader.infos
    assert any("the embeddings again" in note for note in reader.notes)
    assert len(list(reader.tensors())) == 11


ONES = np.ones(8, "<f4").tobytes()


def test_rotary_factors_of_one_are_skipped_and_said_to_be(gguf_path: Path) -> None:
    file = model()
    plain = contents_of(gguf_path, file)
    half = np.ones(1, "<f4").tobytes()
    reader = read(
        gguf_path,
        replace(file, tensors=[*file.tensors, Listed("rope_freqs.weight", (1,), 0, half)]),
    )
    assert any("rope_freqs.weight" in note for note in reader.notes)
    assert contents(gguf_path) == plain


def contents_of(path: Path, file: File) -> Any:
    put(path, file.to_bytes())
    return contents(path)


@pytest.mark.parametrize(
    ("dims", "kind", "data"),
    [
        ((8,), 0, np.full(8, 2, "<f4").tobytes()),
        ((8,), 0, ONES[:-1] + b"\x40"),
        ((8,), 0, np.full(8, np.nan, "<f4").tobytes()),
        ((4,), 0, ONES[:16]),
        ((8, 1), 0, ONES),
        ((16,), 1, np.ones(16, "<f2").tobytes()),
    ],
)
def test_other_rotary_factors_are_refused(
    gguf_path: Path, dims: tuple[int, ...], kind: int, data: bytes
) -> None:
    file = model(TINY)
    put(
        gguf_path,
        replace(
            file, tensors=[*file.tensors, Listed("rope_freqs.weight", dims, kind, data)]
        ).to_bytes(),
    )
    error = outcome(gguf_path)
    assert isinstance(error, ConfigError)
    assert "rope_freqs.weight" in str(error)


# --- formats


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_blocks_stay_as_they_are(gguf_path: Path, dtype: str) -> None:
    reader = checkpoint.open(write_gguf(gguf_path, dtype=dtype))
    by_library = {t.name: t for t in gguf.GGUFReader(gguf_path).tensors}
    formats = {name: info.format for name, info in reader.infos.items()}
    assert formats["layers.0.mlp.down_proj.weight"] == dtype
    assert formats["norm.weight"] == "F32"
    found = dict(reader.tensors())
    down = by_library["blk.0.ffn_down.weight"]
    assert found["layers.0.mlp.down_proj.weight"].data.tobytes() == down.data.tobytes()
    rows = found["layers.0.self_attn.q_proj.weight"]
    theirs = by_library["blk.0.attn_q.weight"].data
    assert sorted(map(bytes, rows.data.reshape(64, -1))) == sorted(
        bytes(row) for row in theirs.view(np.uint8).reshape(64, -1)
    )


BIG = tiny_config(dim=256, n_heads=4, head_dim=64, ffn_dim=256)
BLOCK_TYPES = {
    2: Format.Q4_0, 3: Format.Q4_1, 6: Format.Q5_0, 7: Format.Q5_1, 8: Format.Q8_0,
    10: Format.Q2_K, 11: Format.Q3_K, 12: Format.Q4_K, 13: Format.Q5_K, 14: Format.Q6_K,
}  # fmt: skip


def mixed(seed: int = 0) -> File:
    """A model whose matrices take turns in being stored as every format there is."""
    file, rng = model(BIG), np.random.default_rng(seed)
    tensors, kinds = [], list(BLOCK_TYPES) * 3
    for t in file.tensors:
        if len(t.dims) == 2:
            kind = kinds[len(tensors) % len(BLOCK_TYPES)]
            data = rng.integers(0, 256, n_bytes(BLOCK_TYPES[kind], t.dims[::-1]), dtype=np.uint8)
            t = replace(t, kind=kind, data=data.tobytes())
        tensors.append(t)
    return replace(file, tensors=tensors)


def test_a_mixed_file_is_read_tensor_by_tensor(gguf_path: Path) -> None:
    reader = read(gguf_path, mixed())
    theirs = {t.name: t for t in gguf.GGUFReader(gguf_path).tensors}
    found = dict(reader.tensors())
    assert {t.format for t in found.values()} == {Format.F32, *BLOCK_TYPES.values()}
    for name, ours in [
        ("layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("layers.1.self_attn.v_proj.weight", "blk.1.attn_v.weight"),
        ("lm_head.weight", "output.weight"),
    ]:
        assert found[name].format == theirs[ours].tensor_type.name
        assert found[name].data.tobytes() == theirs[ours].data.tobytes()
        assert reader.infos[name].n_bytes == theirs[ours].n_bytes


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_rows_of_a_head_are_turned_in_every_format(gguf_path: Path, kind: int) -> None:
    """Turning rows and dequantising them can be done in either order."""
    file, format = model(BIG), BLOCK_TYPES[kind]
    rng = np.random.default_rng(kind)
    data = rng.integers(0, 256, n_bytes(format, (256, 256)), dtype=np.uint8)
    file = file.with_tensor("blk.1.attn_q.weight", kind=kind, data=data.tobytes())
    put(gguf_path, file.to_bytes())
    found = dict(checkpoint.open(gguf_path).tensors())["layers.1.self_attn.q_proj.weight"]
    with np.errstate(invalid="ignore"):
        numbers = gguf.dequantize(data.reshape(256, -1), gguf.GGMLQuantizationType(kind))
    turned = numbers.reshape(4, 32, 2, 256).swapaxes(1, 2).reshape(256, 256)
    assert found.format is format
    assert np.array_equal(found.to_float32(), turned, equal_nan=True)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_rows_that_are_no_whole_blocks_are_refused(gguf_path: Path, kind: int) -> None:
    format = BLOCK_TYPES[kind]
    ffn_dim = format.block_size + 16
    file = model(tiny_config(dim=256, n_heads=4, head_dim=64, ffn_dim=ffn_dim))
    put(gguf_path, file.with_tensor("blk.0.ffn_down.weight", kind=kind, data=bytes(64)).to_bytes())
    error = outcome(gguf_path)
    assert isinstance(error, CheckpointError)
    assert f"rows of {ffn_dim} numbers" in str(error)
    assert str(format) in str(error)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_tensor_one_block_short_or_long_is_refused(
    gguf_path: Path, kind: int, change: int
) -> None:
    format = BLOCK_TYPES[kind]
    size = n_bytes(format, (256, 256)) + change * max(32, format.block_bytes)
    file = model(BIG).with_tensor("blk.0.ffn_down.weight", kind=kind, data=bytes(size))
    put(gguf_path, file.to_bytes())
    error = outcome(gguf_path)
    assert isinstance(error, CheckpointError)
    assert "overlap" in str(error) or "gap" in str(error)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@pytest.mark.parametrize("where", ["cut", "grown"])
def test_a_mixed_file_cut_short_or_grown_is_refused(gguf_path: Path, kind: int, where: str) -> None:
    format = BLOCK_TYPES[kind]
    data = bytes(n_bytes(format, (320, 256)))
    raw = model(BIG).with_tensor("output.weight", kind=kind, data=data).to_bytes()
    put(gguf_path, raw[:-40] if where == "cut" else raw + bytes(40))
    error = outcome(gguf_path)
    assert isinstance(error, CheckpointError)
    assert "the header promises" in str(error)


# --- the file itself


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "an empty file": lambda path: path.touch(),
    "a Git LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
    "a web page": lambda path: path.write_text("<!DOCTYPE html><html></html>"),
    "four bytes": lambda path: path.write_bytes(b"GGUF"),
    "seven bytes": lambda path: path.write_bytes(b"GGUF\3\0\0"),
}


@pytest.mark.parametrize("what", NOT_FILES)
def test_what_is_there_instead_is_named(gguf_path: Path, what: str) -> None:
    NOT_FILES[what](gguf_path)
    error = outcome(gguf_path)
    assert isinstance(error, CheckpointError)
    assert str(gguf_path) in str(error)


def test_the_name_does_not_matter_and_links_are_followed(gguf_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "model.bin"
    link.symlink_to(gguf_file)
    assert contents(link) == contents(gguf_file)


def test_opening_and_reading_touch_nothing_else(gguf_file: Path) -> None:
    contents(gguf_file)
    with watch() as watched:
        contents(gguf_file)
    assert watched.others == []
    assert {Path(path) for path in watched.opened} == {gguf_file.resolve()}


@pytest.mark.parametrize("change", [cut, grow, rewrite], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_a_file_that_changes_is_noticed(
    gguf_path: Path, change: Callable[[Path], None], n_before: int
) -> None:
    write_gguf(gguf_path)
    os.utime(gguf_path, ns=(0, 0))
    tensors = checkpoint.open(gguf_path).tensors()
    for _ in range(n_before):
        next(tensors)
    change(gguf_path)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        list(tensors)


def test_a_file_that_is_removed_is_read_to_its_end(gguf_path: Path) -> None:
    write_gguf(gguf_path)
    expected = contents(gguf_path)
    reader = checkpoint.open(gguf_path)
    gguf_path.unlink()
    found = {name: (str(t.format), t.shape, t.data.tobytes()) for name, t in reader.tensors()}
    assert found == expected
