"""What a GGUF file of ours says before its tensors: sizes, vocabulary, chat template, places.

Keys are those that llama.cpp's converter writes for Code Llama. Names: `docs/gguf.md` of
github.com/ggml-org/ggml and the keys of the `gguf` package.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codellama.checkpoint.gguf import LAYER_NAMES, OUTER_NAMES
from codellama.checkpoint.gguf_header import FORMATS
from codellama.checkpoint.reader import ChatForm, GenerationDefaults
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, n_bytes

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

ALIGNMENT = 32  # the format's default, so it need not be said

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_VERSION = 3
_QUANTIZATION_VERSION = 2  # of the block layouts, which have not changed since 2023
_UNUSED_SCORE = -10000.0
_NUMBERS = {format: number for number, format in FORMATS.items()}
_OUTER = {ours: theirs for theirs, ours in OUTER_NAMES.items()}
_LAYER = {ours: theirs for theirs, ours in LAYER_NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file says beside its tensors.

    `file_type` is GGUF's number for the mix of formats; None where the mix has none.
    """

    name: str
    file_type: int | None
    tokenizer: Tokenizer
    generation: GenerationDefaults
    chat_form: ChatForm | None


def gguf_name(name: str) -> str:
    """What GGUF calls our parameter `name`."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] != "layers":
        return f"{_OUTER['.'.join(parts)]}.weight"
    return f"blk.{parts[1]}.{_LAYER['.'.join(parts[2:])]}.weight"


def header(
    config: ModelConfig, metadata: Metadata, formats: Mapping[str, Format]
) -> tuple[bytes, dict[str, int]]:
    """Everything before the tensors' bytes, and where in the file each tensor begins.

    Raises:
        CheckpointError: the tokenizer has more pieces than the model has rows of embeddings.
    """
    entries = [*_sizes(config, metadata), *_vocabulary(config, metadata)]
    shapes = config.tensor_shapes()
    out = [b"GGUF", struct.pack("<IQQ", _VERSION, len(formats), len(entries))]
    out += [_string(key) + value for key, value in entries]
    offsets, end = {}, 0
    for name, format in formats.items():
        offsets[name] = end
        shape = shapes[name]
        out.append(_string(gguf_name(name)) + struct.pack("<I", len(shape)))
        out.append(struct.pack(f"<{len(shape)}Q", *reversed(shape)))
        out.append(struct.pack("<IQ", _NUMBERS[format], end))
        end += _padded(n_bytes(format, shape))
    raw = b"".join(out)
    start = _padded(len(raw))
    return raw.ljust(start, b"\0"), {name: start + offset for name, offset in offsets.items()}


def _sizes(config: ModelConfig, metadata: Metadata) -> list[tuple[str, bytes]]:
    sizes = {
        "block_count": config.n_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    file_type = metadata.file_type
    return [
        ("general.architecture", _text("llama")),
        ("general.name", _text(metadata.name)),
        *(() if file_type is None else [("general.file_type", _u32(file_type))]),
        ("general.quantization_version", _u32(_QUANTIZATION_VERSION)),
        *((f"llama.{key}", _u32(value)) for key, value in sizes.items()),
        ("llama.rope.freq_base", _f32(config.rope_theta)),
        ("llama.attention.layer_norm_rms_epsilon", _f32(config.norm_eps)),
    ]


def _vocabulary(config: ModelConfig, metadata: Metadata) -> list[tuple[str, bytes]]:
    from codellama.text.hf_json import chat_template
    from codellama.text.spm import PieceType
    from codellama.text.tokenizer import CONTROL_PIECES

    tokenizer, generation = metadata.tokenizer, metadata.generation
    missing = config.vocab_size - tokenizer.n_vocab
    if missing < 0:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.n_vocab} pieces and the model embeds "
            f"{config.vocab_size}",
            hint="tokenizer and weights belong to different models",
        )
    found = tokenizer.vocabulary()
    # Rows of embeddings that no piece belongs to get one that no text becomes: llama.cpp asks for
    # as many pieces as rows. And it asks for markers to be control pieces, which show nothing.
    pieces = [*found.pieces, *(f"[PAD{tokenizer.n_vocab + i}]" for i in range(missing))]
    scores = [*found.scores, *[_UNUSED_SCORE] * missing]
    types = [
        PieceType.CONTROL if piece in CONTROL_PIECES else kind
        for piece, kind in zip(found.pieces, found.types, strict=True)
    ] + [PieceType.UNUSED] * missing
    eos = generation.eos_ids[0] if generation.eos_ids else tokenizer.eos_id
    others = [i for i in generation.eos_ids if i != eos]
    ids = {
        "bos": tokenizer.bos_id if generation.bos_id is None else generation.bos_id,
        "eos": eos,
        "eot": others[0] if others else tokenizer.eot_id,
        "unknown": tokenizer.unk_id,
        "prefix": tokenizer.prefix_id,
        "suffix": tokenizer.suffix_id,
        "middle": tokenizer.middle_id,
    }
    entries = {
        "model": _text("llama"),
        "pre": _text("default"),
        "tokens": _array(_STRING, [_string(piece) for piece in pieces]),
        "scores": _array(_FLOAT32, [struct.pack("<f", score) for score in scores]),
        "token_type": _array(_INT32, [struct.pack("<i", kind) for kind in types]),
        **{f"{key}_token_id": _u32(i) for key, i in ids.items() if i is not None},
        "add_bos_token": _bool(True),
        "add_eos_token": _bool(False),
        "add_space_prefix": _bool(tokenizer.add_dummy_prefix),
    }
    found_entries = [(f"tokenizer.ggml.{key}", value) for key, value in entries.items()]
    if metadata.chat_form is not None:
        template = chat_template(metadata.chat_form, add_dummy_prefix=tokenizer.add_dummy_prefix)
        found_entries.append(("tokenizer.chat_template", _text(template)))
    return found_entries


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _text(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _string(text)


def _u32(value: int) -> bytes:
    return struct.pack("<II", _UINT32, value)


def _f32(value: float) -> bytes:
    return struct.pack("<If", _FLOAT32, value)


def _bool(value: bool) -> bytes:
    return struct.pack("<IB", _BOOL, value)


def _array(kind: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, len(items)) + b"".join(items)
