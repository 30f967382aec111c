"""Writing GGUF: what comes back, what the `gguf` package reads, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from checkpoints_tiny import TINY, Weights, tiny_config, tiny_sentencepiece, tiny_weights, write_hf
from codellama import checkpoint
from codellama.checkpoint import gguf_write
from codellama.checkpoint.gguf_metadata import Metadata
from codellama.checkpoint.gguf_write import save_gguf
from codellama.checkpoint.reader import GenerationDefaults
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor, quantise
from codellama.text.tokenizer import Tokenizer

TEXTS = ["def f(x):\n    return x", " x", "  x", "", "\n", "é漢字😀", "import  self\t", "a <PRE> b"]


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_sentencepiece())


def write(
    dst: Path,
    tokenizer: Tokenizer,
    *,
    config: ModelConfig = TINY,
    weights: Weights | None = None,
    format: Format = Format.F32,
    generation: GenerationDefaults | None = None,
    chat_form: Any = None,
    overwrite: bool = False,
    backwards: bool = False,
) -> tuple[str, ...]:
    weights = tiny_weights(config) if weights is None else weights
    tensors = [(name, Tensor.from_float32(x)) for name, x in weights.items()]
    formats = {name: format if x.ndim > 1 else Format.F32 for name, x in weights.items()}
    metadata = Metadata(
        name="tiny",
        file_type=0,
        tokenizer=tokenizer,
        generation=generation or GenerationDefaults(bos_id=1, eos_ids=(2,)),
        chat_form=chat_form,
    )
    given = reversed(tensors) if backwards else tensors
    return save_gguf(dst, config, given, formats, metadata, overwrite=overwrite)


# --- what comes back


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_load_of_save_is_the_identity(
    dst: Path, tokenizer: Tokenizer, tied: bool, backwards: bool
) -> None:
    config = tiny_config(tie_embeddings=tied, n_kv_heads=1, head_dim=16)
    write(dst, tokenizer, config=config, backwards=backwards)
    reader = checkpoint.open(dst)
    assert reader.config == config
    found = dict(reader.tensors())
    weights = tiny_weights(config)
    assert found.keys() == weights.keys()
    for name, x in weights.items():
        assert np.array_equal(found[name].to_float32(), x), name


@pytest.mark.parametrize("format", [f for f in Format if f not in (Format.Q2_K, Format.Q3_K)])
def test_every_format_is_the_rounding_of_the_whole_tensor(
    dst: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, format: Format
) -> None:
    monkeypatch.setattr(gguf_write, "_AT_ONCE", 1000)  # three rows, so in many groups
    config = tiny_config(dim=256, n_heads=4, head_dim=64, ffn_dim=256, n_layers=1)
    weights = tiny_weights(config)
    notes = write(dst, tokenizer, config=config, format=format)
    found = dict(checkpoint.open(dst).tensors())
    for name, x in weights.items():
        expected = quantise(format if x.ndim > 1 else Format.F32, x)
        assert found[name].data.tobytes() == expected.tobytes(), name
    assert notes == (() if format is Format.F32 else (f"9 tensors from F32 to {format}",))


def test_bytes_in_the_right_format_are_kept(dst: Path, tokenizer: Tokenizer) -> None:
    """Quantised rows move with their heads and are not rounded again."""
    config = tiny_config(dim=256, n_heads=4, head_dim=64, ffn_dim=256, n_layers=1)
    rng = np.random.default_rng(0)
    formats, tensors = {}, []
    for name, shape in config.tensor_shapes().items():
        formats[name] = Format.Q3_K if len(shape) == 2 else Format.F32
        data = rng.integers(0, 256, shape[0] * 110 if len(shape) == 2 else 1024, dtype=np.uint8)
        tensors.append((name, Tensor(formats[name], shape, data)))
    metadata = Metadata(
        name="x", file_type=0, tokenizer=tokenizer, generation=GenerationDefaults(), chat_form=None
    )
    assert save_gguf(dst, config, tensors, formats, metadata) == ()
    found = dict(checkpoint.open(dst).tensors())
    for name, tensor in tensors:
        assert found[name].data.tobytes() == tensor.data.tobytes()


def test_the_vocabulary_comes_back(dst: Path, tokenizer: Tokenizer) -> None:
    write(dst, tokenizer)
    found = checkpoint.open(dst).tokenizer()
    assert found.n_vocab == tokenizer.n_vocab
    for name in ("bos_id", "eos_id", "unk_id", "prefix_id", "suffix_id", "middle_id", "eot_id"):
        assert getattr(found, name) == getattr(tokenizer, name)
    assert found.add_dummy_prefix is tokenizer.add_dummy_prefix
    for text in TEXTS:
        for allow in (False, True):
            ids = tokenizer.encode(text, allow_control=allow)
            assert found.encode(text, allow_control=allow) == ids
        assert found.decode(ids) == tokenizer.decode(ids)


def test_rows_without_a_piece_get_one_that_no_text_becomes(dst: Path, tokenizer: Tokenizer) -> None:
    config = tiny_config(vocab_size=323)
    write(dst, tokenizer, config=config)
    reader = checkpoint.open(dst)
    found = reader.tokenizer()
    assert (reader.config.vocab_size, found.n_vocab) == (323, 323)
    assert found.piece(322) == "[PAD322]"
    for text in (*TEXTS, "[PAD322]", "x[PAD320]"):
        assert found.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("form", [None, "inst", "step"])
def test_the_chat_form_comes_back(dst: Path, tokenizer: Tokenizer, form: Any) -> None:
    write(dst, tokenizer, chat_form=form)
    assert checkpoint.open(dst).chat_form == form


@pytest.mark.parametrize("eos_ids", [(2,), (2, 300), (300, 2), ()])
def test_the_ends_come_back(dst: Path, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> None:
    """And the end of a fill, which llama.cpp's converter writes among them."""
    write(dst, tokenizer, generation=GenerationDefaults(bos_id=1, eos_ids=eos_ids))
    found = checkpoint.open(dst).generation
    assert found.bos_id == 1
    assert found.eos_ids == (eos_ids if len(eos_ids) == 2 else (2, tokenizer.eot_id))


def test_the_same_model_gives_the_same_bytes(dst: Path, tokenizer: Tokenizer) -> None:
    write(dst, tokenizer)
    write(dst.with_name("again"), tokenizer, backwards=True)
    assert dst.read_bytes() == dst.with_name("again").read_bytes()


# --- what the gguf package reads


def test_the_gguf_package_reads_it(dst: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    write(dst, tokenizer, format=Format.Q8_0, chat_form="inst")
    reader = gguf.GGUFReader(dst)
    found = {key: field.contents() for key, field in reader.fields.items()}
    keys = gguf.Keys
    arch = {"arch": "llama"}
    assert found[keys.General.ARCHITECTURE] == "llama"
    assert found[keys.LLM.CONTEXT_LENGTH.format(**arch)] == config.max_seq_len
    assert found[keys.LLM.BLOCK_COUNT.format(**arch)] == config.n_layers
    assert found[keys.Attention.HEAD_COUNT_KV.format(**arch)] == config.n_kv_heads
    assert found[keys.Rope.FREQ_BASE.format(**arch)] == config.rope_theta
    assert found[keys.Tokenizer.LIST] == tokenizer.vocabulary().pieces
    assert found[keys.Tokenizer.PREFIX_ID] == tokenizer.prefix_id
    assert found[keys.Tokenizer.SUFFIX_ID] == tokenizer.suffix_id
    assert found[keys.Tokenizer.MIDDLE_ID] == tokenizer.middle_id
    assert found[keys.Tokenizer.EOT_ID] == tokenizer.eot_id
    assert found[keys.Tokenizer.ADD_BOS] is True
    assert found[keys.Tokenizer.ADD_EOS] is False
    assert "[INST]" in found[keys.Tokenizer.CHAT_TEMPLATE]
    types = found[keys.Tokenizer.TOKEN_TYPE]
    assert types[tokenizer.prefix_id] == gguf.TokenType.CONTROL
    weights = tiny_weights()
    for tensor in reader.tensors:
        assert tensor.data_offset % 32 == 0
    down = next(t for t in reader.tensors if t.name == "blk.1.ffn_down.weight")
    numbers = gguf.dequantize(down.data, down.tensor_type)
    assert np.abs(numbers - weights["layers.1.mlp.down_proj.weight"]).max() < 0.003


# --- what a failure leaves


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("change", ["missing", "doubled", "misshapen", "unknown", "too large"])
def test_a_wrong_tensor_leaves_nothing(dst: Path, tokenizer: Tokenizer, change: str) -> None:
    name = "layers.0.mlp.up_proj.weight"
    tensors = {key: Tensor.from_float32(x) for key, x in tiny_weights().items()}
    formats = {key: Format.F16 if len(t.shape) > 1 else Format.F32 for key, t in tensors.items()}
    given = list(tensors.items())
    if change == "missing":
        given = [pair for pair in given if pair[0] != name]
    elif change == "doubled":
        given.append((name, tensors[name]))
    elif change == "misshapen":
        given = [(k, Tensor.from_float32(np.zeros((3, 64), np.float32)) if k == name else t)
                 for k, t in given]  # fmt: skip
    elif change == "unknown":
        given.append(("layers.9.mlp.up_proj.weight", tensors[name]))
    else:
        big = np.full(tensors[name].shape, 1e6, np.float32)
        given = [(k, Tensor.from_float32(big) if k == name else t) for k, t in given]
    metadata = Metadata(
        name="x", file_type=1, tokenizer=tokenizer, generation=GenerationDefaults(), chat_form=None
    )
    with pytest.raises(CheckpointError) as caught:
        save_gguf(dst, TINY, given, formats, metadata)
    words = "blk.0.ffn_up.weight" if change == "too large" else "mlp.up_proj.weight"
    assert words in str(caught.value)
    assert left(dst.parent) == []


def test_a_tokenizer_larger_than_the_model(dst: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="320 pieces and the model embeds 300"):
        write(dst, tokenizer, config=tiny_config(vocab_size=300))
    assert left(dst.parent) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_exists_is_only_replaced_when_asked(
    dst: Path, tokenizer: Tokenizer, overwrite: bool
) -> None:
    dst.write_text("mine")
    if overwrite:
        write(dst, tokenizer, overwrite=True)
        assert checkpoint.open(dst).config == TINY
    else:
        with pytest.raises(CheckpointError, match="exists"):
            write(dst, tokenizer)
        assert dst.read_text() == "mine"
    assert left(dst.parent) == [dst.name]


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to a folder", "FIFO"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_file_is_replaced(
    dst: Path, tokenizer: Tokenizer, kind: str, overwrite: bool
) -> None:
    if kind == "folder":
        dst.mkdir()
    elif kind == "FIFO":
        os.mkfifo(dst)
    else:
        dst.symlink_to("nothing" if kind == "link to nothing" else ".")
    with pytest.raises(CheckpointError):
        write(dst, tokenizer, overwrite=overwrite)
    assert left(dst.parent) == [dst.name]


@pytest.mark.parametrize("step", ["posix_fallocate", "fsync", "rename", "write"])
@pytest.mark.parametrize("old", [False, True])
def test_a_failure_at_any_step_leaves_the_old_file(
    dst: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, step: str, old: bool
) -> None:
    if old:
        dst.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    if step == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    elif step == "write":
        monkeypatch.setattr(gguf_write, "_write", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(CheckpointError, match="cannot be written: Input/output error"):
        write(dst, tokenizer, overwrite=True)
    assert left(dst.parent) == [dst.name] * old
    assert not old or dst.read_text() == "old"


def test_an_interrupt_leaves_nothing(dst: Path) -> None:
    """Ctrl-C comes while a tensor is read."""
    from codellama.checkpoint.quantize import quantize

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(write_hf(dst.parent / "hf"), dst, "q8_0", progress=stop)
    assert left(dst.parent) == ["hf"]


KILL = """
import os, sys
from pathlib import Path
from codellama.checkpoint import gguf_write
from codellama.checkpoint.quantize import quantize
places = {"posix_fallocate": os, "fsync": os, "rename": Path, "_write": gguf_write}
setattr(places[sys.argv[1]], sys.argv[1], lambda *_: os._exit(9))
quantize(sys.argv[2], sys.argv[3], "q8_0", overwrite=True)
"""


@pytest.mark.parametrize("step", ["posix_fallocate", "_write", "fsync", "rename"])
def test_killed_at_any_step_the_old_file_is_there(dst: Path, hf_folder: Path, step: str) -> None:
    """What the dead process wrote keeps its hidden name."""
    dst.write_text("old")
    command = [sys.executable, "-c", KILL, step, str(hf_folder), str(dst)]
    assert subprocess.run(command, timeout=60).returncode == 9
    assert [name for name in left(dst.parent) if not name.startswith(".")] == [dst.name]
    assert dst.read_text() == "old"


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_says_how_much_is_needed(
    dst: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first tensor is read."""
    monkeypatch.setattr(gguf_write, "_write", lambda *_: pytest.fail("a tensor was written"))
    with files_of_at_most(100_000), pytest.raises(CheckpointError) as caught:
        write(dst, tokenizer)
    assert "bytes; free some space" in str(caught.value.hint)
    assert left(dst.parent) == []


def test_a_place_that_cannot_be_written(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file" / "model.gguf", tokenizer)


def test_folders_on_the_way_are_made(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path / "a" / "b" / "model.gguf", tokenizer)
    assert left(tmp_path / "a" / "b") == ["model.gguf"]


def test_a_folder_s_model_survives_the_way_through_gguf(tmp_path: Path) -> None:
    """Hugging Face to GGUF and back gives the tensors there were."""
    from codellama.checkpoint.convert import convert
    from codellama.checkpoint.quantize import quantize

    folder = write_hf(tmp_path / "hf", dtype="F16")
    quantize(folder, tmp_path / "x.gguf", "f16")
    convert(tmp_path / "x.gguf", tmp_path / "back")
    back = dict(checkpoint.open(tmp_path / "back").tensors())
    for name, tensor in checkpoint.open(folder).tensors():
        assert np.array_equal(back[name].to_float32(), tensor.to_float32())
