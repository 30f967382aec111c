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

from checkpoints_tiny import TINY, tiny_config, tiny_sentencepiece, tiny_weights, write_gguf
from codellama import checkpoint
from codellama.checkpoint.files import open_file
from codellama.checkpoint.gguf_config import config_from_metadata
from codellama.checkpoint.gguf_header import Header
from codellama.errors import CheckpointError, ConfigError
from codellama.model.family import MEMBERS
from codellama.quant.formats import Format, n_bytes
from codellama.text.tokenizer import Tokenizer
from hostile import SMALLEST, contents, outcome, watch
from hostile_gguf import BOOL, F32, I32, STRING, U32, File, Listed, Pair, array, metadata, model
from hostile_pth import put

T = "tokenizer.ggml."
REAL_VOCABULARY = (
    Path(__file__).parents[3] / "shared/data/tokenizer/codellama-32016.tokenizer.model"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.gguf"


def pieces() -> Any:
    from sentencepiece import sentencepiece_model_pb2 as pb

    return pb.ModelProto.FromString(tiny_sentencepiece()).pieces


def vocabulary() -> list[Pair]:
    """The tiny vocabulary as metadata."""
    return [
        Pair(T + "model", STRING, "llama"),
        Pair(T + "tokens", raw=array(STRING, [p.piece for p in pieces()])),
        Pair(T + "scores", raw=array(F32, [p.score for p in pieces()])),
        Pair(T + "token_type", raw=array(I32, [p.type for p in pieces()])),
        Pair(T + "bos_token_id", U32, 1),
        Pair(T + "eos_token_id", U32, 2),
    ]


def with_vocabulary(*changes: Pair, vocab_size: int = 320) -> File:
    file = model(tiny_config(n_layers=1, vocab_size=vocab_size))
    file = replace(file, pairs=[*file.pairs, *vocabulary()])
    for pair in changes:
        file = file.with_pair(pair)
    return file


def read(path: Path, file: File) -> Any:
    put(path, file.to_bytes())
    return checkpoint.open(path)


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
def test_metadata_gives_the_family_s_sizes(member: Any, path: Path) -> None:
    """32-bit floats stand for the decimals they were written as: the sizes are exactly equal."""
    put(path, replace(model(SMALLEST), pairs=metadata(member.config), tensors=[]).to_bytes())
    found = config_from_metadata(
        Header(open_file(path)).metadata, "here", vocab_size=member.config.vocab_size, tied=False
    )
    assert found == member.config


def test_sizes_that_a_file_may_leave_out(path: Path) -> None:
    config = tiny_config(n_layers=1, n_kv_heads=4)
    file = model(config)
    for key in ("attention.head_count_kv", "rope.dimension_count", "vocab_size"):
        file = file.without(f"llama.{key}")
    assert read(path, file).config == config


def test_heads_may_be_narrower_or_wider_than_their_share(path: Path) -> None:
    for head_dim in (8, 32):
        config = tiny_config(head_dim=head_dim)
        reader = checkpoint.open(write_gguf(path, config))
        assert reader.config == config
        found = {name: tensor.to_float32() for name, tensor in reader.tensors()}
        weights = tiny_weights(config)
        assert all(np.array_equal(found[name], weights[name]) for name in weights)


def test_an_absent_output_is_the_embeddings_again(path: Path) -> None:
    file = model(SMALLEST)
    tied = replace(file, tensors=[t for t in file.tensors if t.name != "output.weight"])
    reader = read(path, tied)
    assert reader.config == replace(SMALLEST, tie_embeddings=True)
    assert "lm_head.weight" not in reader.infos
    assert any("the embeddings again" in note for note in reader.notes)
    assert len(list(reader.tensors())) == 11


ONES = np.ones(8, "<f4").tobytes()


def test_rotary_factors_of_one_are_skipped_and_said_to_be(path: Path) -> None:
    file = model()
    plain = contents_of(path, file)
    half = np.ones(1, "<f4").tobytes()
    reader = read(
        path, replace(file, tensors=[*file.tensors, Listed("rope_freqs.weight", (1,), 0, half)])
    )
    assert any("rope_freqs.weight" in note for note in reader.notes)
    assert contents(path) == plain


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
    path: Path, dims: tuple[int, ...], kind: int, data: bytes
) -> None:
    file = model(TINY)
    put(
        path,
        replace(
            file, tensors=[*file.tensors, Listed("rope_freqs.weight", dims, kind, data)]
        ).to_bytes(),
    )
    error = outcome(path)
    assert isinstance(error, ConfigError)
    assert "rope_freqs.weight" in str(error)


# --- formats


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_blocks_stay_as_they_are(path: Path, dtype: str) -> None:
    reader = checkpoint.open(write_gguf(path, dtype=dtype))
    by_library = {t.name: t for t in gguf.GGUFReader(path).tensors}
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


def test_a_mixed_file_is_read_tensor_by_tensor(path: Path) -> None:
    reader = read(path, mixed())
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
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
def test_rows_of_a_head_are_turned_in_every_format(path: Path, kind: int) -> None:
    """Turning rows and dequantising them can be done in either order."""
    file, format = model(BIG), BLOCK_TYPES[kind]
    rng = np.random.default_rng(kind)
    data = rng.integers(0, 256, n_bytes(format, (256, 256)), dtype=np.uint8)
    file = file.with_tensor("blk.1.attn_q.weight", kind=kind, data=data.tobytes())
    put(path, file.to_bytes())
    found = dict(checkpoint.open(path).tensors())["layers.1.self_attn.q_proj.weight"]
    with np.errstate(invalid="ignore"):
        numbers = gguf.dequantize(data.reshape(256, -1), gguf.GGMLQuantizationType(kind))
    turned = numbers.reshape(4, 32, 2, 256).swapaxes(1, 2).reshape(256, 256)
    assert found.format is format
    assert np.array_equal(found.to_float32(), turned, equal_nan=True)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_rows_that_are_no_whole_blocks_are_refused(path: Path, kind: int) -> None:
    format = BLOCK_TYPES[kind]
    ffn_dim = format.block_size + 16
    file = model(tiny_config(dim=256, n_heads=4, head_dim=64, ffn_dim=ffn_dim))
    put(path, file.with_tensor("blk.0.ffn_down.weight", kind=kind, data=bytes(64)).to_bytes())
    error = outcome(path)
    assert isinstance(error, CheckpointError)
    assert f"rows of {ffn_dim} numbers" in str(error)
    assert str(format) in str(error)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_tensor_one_block_short_or_long_is_refused(path: Path, kind: int, change: int) -> None:
    format = BLOCK_TYPES[kind]
    size = n_bytes(format, (256, 256)) + change * max(32, format.block_bytes)
    file = model(BIG).with_tensor("blk.0.ffn_down.weight", kind=kind, data=bytes(size))
    put(path, file.to_bytes())
    error = outcome(path)
    assert isinstance(error, CheckpointError)
    assert "overlap" in str(error) or "gap" in str(error)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@pytest.mark.parametrize("where", ["cut", "grown"])
def test_a_mixed_file_cut_short_or_grown_is_refused(path: Path, kind: int, where: str) -> None:
    format = BLOCK_TYPES[kind]
    data = bytes(n_bytes(format, (320, 256)))
    raw = model(BIG).with_tensor("output.weight", kind=kind, data=data).to_bytes()
    put(path, raw[:-40] if where == "cut" else raw + bytes(40))
    error = outcome(path)
    assert isinstance(error, CheckpointError)
    assert "the header promises" in str(error)


# --- tokenizer


TEXTS = ["def f(x):\n    return x", "  two  spaces", "", " ", "naïve ☃ 𝄞", "a<PRE> <PRE>", "\t\n"]


def test_the_vocabulary_encodes_as_the_original(gguf_file: Path, tokenizer_model: Path) -> None:
    ours, original = checkpoint.open(gguf_file).tokenizer(), Tokenizer.open(tokenizer_model)
    assert ours.n_vocab == original.n_vocab == 320
    for text in TEXTS:
        assert ours.encode(text, bos=True) == original.encode(text, bos=True)
        assert ours.encode_bare(text) == original.encode_bare(text)
        assert ours.decode(ours.encode(text)) == text
    assert (ours.prefix_id, ours.eot_id) == (original.prefix_id, original.eot_id)
    assert ours.has_infill


def test_the_space_in_front_is_the_file_s_to_say(path: Path) -> None:
    for flag in (True, False):
        reader = read(path, with_vocabulary(Pair(T + "add_space_prefix", BOOL, flag)))
        assert reader.tokenizer().add_dummy_prefix is flag
    reader = read(path, with_vocabulary())
    assert reader.tokenizer().add_dummy_prefix is True


@pytest.mark.skipif(not REAL_VOCABULARY.exists(), reason=f"{REAL_VOCABULARY} is not there")
def test_the_family_s_vocabulary(path: Path) -> None:
    """32,016 pieces, and the same ids as the original."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    found = pb.ModelProto.FromString(REAL_VOCABULARY.read_bytes()).pieces
    file = with_vocabulary(
        Pair(T + "tokens", raw=array(STRING, [p.piece for p in found])),
        Pair(T + "scores", raw=array(F32, [p.score for p in found])),
        Pair(T + "token_type", raw=array(I32, [p.type for p in found])),
        Pair(T + "add_space_prefix", BOOL, 1),
        Pair(T + "eot_token_id", U32, 32010),
        vocab_size=32016,
    )
    put(path, file.to_bytes())
    reader = checkpoint.open(path)
    ours, original = reader.tokenizer(), Tokenizer.open(REAL_VOCABULARY)
    assert reader.generation.eos_ids == (2, 32010)
    for text in (*TEXTS, "a <Elem", "keep <SUF> as text?", "<EOT><EOT>", "x " * 500):
        for allow in (False, True):
            ids = original.encode(text, allow_control=allow)
            assert ours.encode(text, allow_control=allow) == ids


TOKENIZERS: dict[str, tuple[Pair, str]] = {
    "no tokenizer": (Pair(T + "model", U32, 0), "tokenizer.ggml.model"),
    **{f"a tokenizer of the kind {kind}": (Pair(T + "model", STRING, kind), repr(kind))
       for kind in ("gpt2", "bert", "t5", "rwkv", "no_vocab", "LLAMA", "")},
    "tokens as a string": (Pair(T + "tokens", STRING, "a"), "tokens"),
    "tokens as numbers": (Pair(T + "tokens", raw=array(U32, [1, 2])), "tokens"),
    "no token": (Pair(T + "tokens", raw=array(STRING, [])), ""),
    "a token too few": (
        Pair(T + "tokens", raw=array(STRING, [f"t{i}" for i in range(319)])), ""),
    "a token too many": (
        Pair(T + "tokens", raw=array(STRING, [f"t{i}" for i in range(321)])),
        "321 pieces and the model embeds 320"),
    "a token twice": (Pair(T + "tokens", raw=array(STRING, ["a"] * 320)), ""),
    "a token that is not UTF-8": (Pair(T + "tokens", raw=array(STRING, [b"\xff"] * 320)), "UTF-8"),
    "scores as strings": (Pair(T + "scores", raw=array(STRING, ["1"] * 320)), "scores"),
    "a score too few": (Pair(T + "scores", raw=array(F32, [0.0] * 319)), ""),
    "scores that are not numbers": (Pair(T + "scores", raw=array(F32, [float("nan")] * 320)), ""),
    "types as a number": (Pair(T + "token_type", U32, 1), "token_type"),
    "a type too few": (Pair(T + "token_type", raw=array(I32, [1] * 319)), ""),
    "unknown types": (Pair(T + "token_type", raw=array(I32, [99] * 320)), ""),
    "no special tokens": (Pair(T + "token_type", raw=array(I32, [1] * 320)), ""),
    "the space in front as a number": (Pair(T + "add_space_prefix", U32, 1), "add_space_prefix"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOKENIZERS)
def test_other_tokenizers_are_refused_by_name(path: Path, what: str) -> None:
    pair, words = TOKENIZERS[what]
    reader = read(path, with_vocabulary(pair))
    assert len(contents(path)) == 12  # the weights are read all the same
    with pytest.raises(CheckpointError) as caught:
        reader.tokenizer()
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["model", "tokens", "scores", "token_type"])
def test_a_vocabulary_has_four_parts(path: Path, key: str) -> None:
    reader = read(path, with_vocabulary().without(T + key))
    with pytest.raises(CheckpointError, match=f"{T}{key}.* missing"):
        reader.tokenizer()


# --- where sequences end, and chat


def test_the_ids_that_end_a_sequence(path: Path) -> None:
    found = read(path, with_vocabulary(Pair(T + "eot_token_id", U32, 319))).generation
    assert (found.bos_id, found.eos_ids) == (1, (2, 319))
    found = read(path, with_vocabulary(Pair(T + "eot_token_id", U32, 2))).generation
    assert found.eos_ids == (2,)
    found = read(path, model()).generation
    assert (found.bos_id, found.eos_ids) == (None, ())


@pytest.mark.parametrize("key", ["bos", "eos", "eot"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(U32, 320), (U32, 2**32 - 1), (I32, -1), (F32, 1.0), (STRING, "1"), (BOOL, 1)],
)
def test_ids_outside_the_vocabulary_are_refused(
    path: Path, key: str, kind: int, value: Any
) -> None:
    put(path, with_vocabulary(Pair(f"{T}{key}_token_id", kind, value)).to_bytes())
    error = outcome(path)
    assert isinstance(error, CheckpointError)
    assert f"{key}_token_id" in str(error)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[INST] ' + messages[0] }}", "inst"),
        ("{{ '<step>' }}", "step"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", None),
        (None, None),
    ],
)
def test_a_template_is_reported_and_not_run(
    path: Path, template: str | None, form: str | None
) -> None:
    pair = Pair("tokenizer.chat_template", STRING, template or "")
    file = with_vocabulary(pair) if template is not None else with_vocabulary()
    reader = read(path, file)
    reader.tokenizer()
    with watch() as watched:
        assert (reader.chat_template, reader.chat_form) == (template, form)
    assert watched.others == []


def test_a_step_piece_says_how_to_chat(path: Path) -> None:
    tokens = [p.piece for p in pieces()[:-1]] + ["<step>"]
    file = with_vocabulary(Pair(T + "tokens", raw=array(STRING, tokens)))
    assert read(path, file).chat_form == "step"
    assert read(path, with_vocabulary()).chat_form is None


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
def test_what_is_there_instead_is_named(path: Path, what: str) -> None:
    NOT_FILES[what](path)
    error = outcome(path)
    assert isinstance(error, CheckpointError)
    assert str(path) in str(error)


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


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def rewrite(path: Path) -> None:
    put(path, path.read_bytes()[::-1])


@pytest.mark.parametrize("change", [cut, grow, rewrite], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_a_file_that_changes_is_noticed(
    path: Path, change: Callable[[Path], None], n_before: int
) -> None:
    write_gguf(path)
    os.utime(path, ns=(0, 0))
    tensors = checkpoint.open(path).tensors()
    for _ in range(n_before):
        next(tensors)
    change(path)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        list(tensors)


def test_a_file_that_is_removed_is_read_to_its_end(path: Path) -> None:
    write_gguf(path)
    expected = contents(path)
    reader = checkpoint.open(path)
    path.unlink()
    found = {name: (str(t.format), t.shape, t.data.tobytes()) for name, t in reader.tensors()}
    assert found == expected
