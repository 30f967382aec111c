"""GGUF files with one thing wrong in each, by what it is, and words of the error for it."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import gguf

from codellama.quant.formats import Format
from hostile_gguf import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    I64,
    STRING,
    U8,
    U32,
    U64,
    File,
    Listed,
    Pair,
    array,
    model,
)

EMBD, Q, UP = "token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"
BIG = [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def long_name(n: int) -> str:
    return "x" * n


def same_tensors(*changes: tuple[str, dict[str, Any]]) -> File:
    file = model()
    for name, change in changes:
        file = file.with_tensor(name, **change)
    return file


def extra(*pairs: Pair) -> File:
    file = model()
    return replace(file, pairs=[*file.pairs, *pairs])


def more(*tensors: Listed) -> File:
    file = model()
    return replace(file, tensors=[*file.tensors, *tensors])


X = Listed("x", (1,), 0, bytes(4))
CASES: dict[str, tuple[File, str]] = {
    # the first fields
    "no magic": (replace(model(), magic=b"GGUE"), "not a model file"),
    "the old magic": (replace(model(), magic=b"ggjt"), "not a model file"),
    "big endian": (replace(model(), version=3 << 24), "big-endian"),
    "big endian, version 2": (replace(model(), version=2 << 24), "big-endian"),
    **{f"version {n}": (replace(model(), version=n), f"version {n}")
       for n in (0, 1, 4, 5, 2**31, 2**32 - 1)},
    **{f"{n} tensors": (replace(model(), n_tensors=n), "tensors") for n in (1 << 14, *BIG)},
    **{f"{n} entries": (replace(model(), n_pairs=n), "entries") for n in (1 << 14, *BIG)},
    "one tensor more": (replace(model(), n_tensors=13), ""),
    "one tensor fewer": (replace(model(), n_tensors=11), ""),
    "one entry more": (replace(model(), n_pairs=13), ""),
    "one entry fewer": (replace(model(), n_pairs=11), ""),
    "no tensors": (replace(model(), tensors=[]), "no matrix token_embd.weight"),
    "no entries": (replace(model(), pairs=[]), "general.architecture"),
    # keys
    "a key twice": (extra(Pair("a"), Pair("a")), "'a' twice"),
    "a key twice, of two kinds": (extra(Pair("llama.block_count", F32, 1.0)), "twice"),
    "an empty key": (extra(Pair("")), "key ''"),
    "a key that is not UTF-8": (extra(Pair(b"\xff\xfe")), "UTF-8"),
    "a key too long": (extra(Pair("k" * ((1 << 16) + 1))), "bytes, more than"),
    # values
    **{f"type {n}": (extra(Pair("a", raw=struct.pack("<IQ", n, 0))), "unknown type")
       for n in (13, 14, 255, 2**31, 2**32 - 1)},
    **{f"a flag of {n}": (extra(Pair("a", raw=struct.pack("<IB", BOOL, n))), "neither true")
       for n in (2, 128, 255)},
    **{f"a string of {n} bytes": (extra(Pair("a", raw=struct.pack("<IQ", STRING, n) + b"abc")), "")
       for n in (1 << 20, 1 << 23, (1 << 23) + 1, *BIG)},
    "a string that is not UTF-8": (extra(Pair("a", STRING, b"\xc0\x80")), "UTF-8"),
    "half a surrogate pair": (extra(Pair("a", STRING, b"\xed\xa0\x80")), "UTF-8"),
    "more text than there may be": (
        extra(*(Pair(f"a{i}", STRING, "x" * (1 << 20)) for i in range(9))), "bytes of text"),
    # arrays
    "an array of arrays": (extra(Pair("a", raw=struct.pack("<IIQ", ARRAY, ARRAY, 0))), "arrays"),
    **{f"an array of type {n}": (extra(Pair("a", raw=struct.pack("<IIQ", ARRAY, n, 0))), "unknown")
       for n in (13, 255, 2**32 - 1)},
    **{f"an array of {n} {kind}": (extra(Pair("a", raw=array(kind, [], n))), "promises")
       for n in ((1 << 20) + 1, *BIG) for kind in (U8, F64, STRING, BOOL)},
    "an array past the end": (extra(Pair("a", raw=array(U64, [], 1000))), "promises"),
    "strings past the end": (
        extra(Pair("a", raw=array(STRING, [], 1) + struct.pack("<Q", 1 << 30))), "ends at byte"),
    "a string that wraps": (
        extra(Pair("a", raw=array(STRING, [], 2) + struct.pack("<QQ", 2**64 - 8, 1))), "ends at"),
    # alignment
    **{f"alignment {n}": (extra(Pair("general.alignment", U32, n)), "general.alignment")
       for n in (0, 1, 2, 4, 7, 12, 33, 48, 1 << 17, 1 << 31, 2**32 - 1)},
    "alignment as a 64-bit number": (
        extra(Pair("general.alignment", U64, 1 << 40)), "general.alignment"),
    "a negative alignment": (extra(Pair("general.alignment", I32, -32)), "general.alignment"),
    "alignment as a fraction": (extra(Pair("general.alignment", F32, 32.0)), "general.alignment"),
    "alignment as a flag": (extra(Pair("general.alignment", BOOL, 1)), "general.alignment"),
    "alignment as text": (extra(Pair("general.alignment", STRING, "32")), "general.alignment"),
    "alignment as an array": (
        extra(Pair("general.alignment", raw=array(U32, [32]))), "general.alignment"),
    "another alignment than there is": (extra(Pair("general.alignment", U32, 64)), ""),
    # tensors: names
    "a tensor twice": (more(model().tensors[0]), "twice"),
    "a tensor without a name": (more(replace(X, name="")), "tensor ''"),
    "a tensor's name too long": (more(replace(X, name=long_name(65))), "65 bytes"),
    "a name that is not UTF-8": (more(replace(X, name=b"\xff")), "UTF-8"),
    "a name with NUL": (more(replace(X, name="output.weight\0")), "\\x00"),
    "a path": (more(replace(X, name="../../etc/passwd")), "../../etc/passwd"),
    "an absolute path": (more(replace(X, name="/etc/passwd")), "/etc/passwd"),
    "an unknown tensor": (more(X), "has 1 tensor that"),
    "a bias": (more(replace(X, name="blk.0.attn_q.bias")), "attn_q.bias"),
    "an expert": (more(replace(X, name="blk.0.ffn_up.0.weight")), "ffn_up.0.weight"),
    "a layer too many": (more(replace(X, name="blk.1.attn_norm.weight")), "blk.1"),
    "a layer with a zero in front": (more(replace(X, name="blk.00.attn_norm.weight")), "blk.00"),
    "an Arabic layer": (more(replace(X, name="blk.٠.attn_norm.weight")), "has 1 tensor that"),
    "a Hugging Face name": (
        more(replace(X, name="layers.0.input_layernorm.weight")), "input_layernorm"),
    "another name": (same_tensors((Q, {"name": "blk.0.attn_x.weight"})), "q_proj"),
    "another case": (same_tensors((Q, {"name": Q.upper()})), "q_proj"),
    "two swapped names": (same_tensors((Q, {"name": "t"}), (EMBD, {"name": Q}),
                                       ("t", {"name": EMBD})), "have 2 rows"),
    # tensors: dimensions
    **{f"{n} dimensions": (same_tensors((Q, {"n_dims": n})), "dimensions")
       for n in (0, 5, 255, 2**31, 2**32 - 1)},
    "a dimension fewer": (same_tensors((Q, {"dims": (4,)})), "wrong shape"),
    "a dimension more": (same_tensors((Q, {"dims": (2, 2, 1)})), "wrong shape"),
    "four dimensions": (same_tensors((Q, {"dims": (2, 2, 1, 1)})), "wrong shape"),
    "a dimension of zero": (same_tensors((Q, {"dims": (0, 2)})), "shape"),
    "all dimensions zero": (same_tensors((Q, {"dims": (0, 0)})), "shape"),
    "turned round": (same_tensors((EMBD, {"dims": (3, 2)})), ""),
    **{f"a dimension of {n}": (same_tensors((Q, {"dims": (n, 2)})), "attn_q") for n in BIG},
    **{f"another dimension of {n}": (same_tensors((Q, {"dims": (2, n)})), "attn_q") for n in BIG},
    "dimensions whose product wraps to 4": (
        same_tensors((Q, {"dims": ((1 << 62) + 1, 4)})), "attn_q"),
    "dimensions whose product wraps to 0": (
        same_tensors((Q, {"dims": (1 << 32, 1 << 32)})), "attn_q"),
    "dimensions whose bytes wrap": (same_tensors((Q, {"dims": (1 << 62, 1)})), "attn_q"),
    # tensors: types
    **{f"type {kind.name}": (same_tensors((Q, {"kind": int(kind)})), f"stored as {kind.name}")
       for kind in gguf.GGMLQuantizationType
       if kind.name not in (*Format, "NVFP4", "Q1_0")},
    **{f"tensor type {n}": (same_tensors((Q, {"kind": n})), f"unknown type {n}")
       for n in (4, 5, 31, 99, 2**31, 2**32 - 1)},
    "half of its bytes": (same_tensors((Q, {"kind": 1})), "there should be only zeros"),
    "the other half": (same_tensors((Q, {"kind": 30})), "there should be only zeros"),
    **{f"a row that is no whole block of {format}": (
        same_tensors((Q, {"kind": int(gguf.GGMLQuantizationType[format])})),
        f"no whole number of {format} blocks of {format.block_size}")
       for format in Format if format.is_quantised},
    # tensors: where they lie
    **{f"at {n}": (same_tensors((Q, {"offset": n})), "no multiple of 32")
       for n in (1, 4, 31, 33, 2**31 - 1, 2**63 - 1, 2**64 - 1)},
    **{f"at {n}": (same_tensors((Q, {"offset": n})), "leave a gap")
       for n in (2**31, 2**32, 2**62, 2**63, 2**64 - 32)},
    "over another": (same_tensors((Q, {"offset": 0})), "overlap"),
    "over the next": (same_tensors((Q, {"offset": 96})), ""),
    "past the end": (same_tensors((Q, {"offset": 1 << 20})), "gap"),
    "all at the start": (replace(model(), tensors=[replace(t, offset=0)
                                                   for t in model().tensors]), "overlap"),
    "a gap": (same_tensors(("output.weight", {"offset": 32 * 20})), "gap"),
    "bytes behind": (replace(model(), tail=bytes(64)), "promises"),
    "bytes missing": (same_tensors(("output.weight", {"data": b""})), "promises"),
    "data that is not there": (replace(model(), tensors=[replace(t, data=b"")
                                                         for t in model().tensors]), "overlap"),
}  # fmt: skip


def llama(key: str, kind: int = U32, value: Any = 0) -> Pair:
    return Pair(f"llama.{key}", kind, value)


NEEDED = [p.key for p in model().pairs if p.key not in (
    "general.name", "llama.attention.head_count_kv", "llama.rope.dimension_count",
    "llama.vocab_size")]  # fmt: skip
SIZES = ["block_count", "context_length", "embedding_length", "feed_forward_length",
         "attention.head_count", "attention.head_count_kv", "rope.dimension_count", "vocab_size",
         "attention.key_length", "attention.value_length"]  # fmt: skip
NUMBERS = ["rope.freq_base", "attention.layer_norm_rms_epsilon"]
METADATA: dict[str, tuple[File, str]] = {
    **{f"no {key}": (model().without(str(key)), str(key)) for key in NEEDED},
    **{f"{key} = {value}": (model().with_pair(llama(key, kind, value)), "")
       for key in SIZES
       for kind, value in ((U32, 0), (I32, -1), (U64, 2**31), (U64, 2**64 - 1), (I64, -(2**63)),
                           (F32, 2.0), (STRING, "2"), (BOOL, 1), (U32, 3))
       if (key, value) not in (("context_length", 3), ("vocab_size", 3))},
    **{f"{key} as an array": (
        model().with_pair(Pair(f"llama.{key}", raw=array(U32, [2]))), key) for key in SIZES},
    **{f"{key} = {value}": (model().with_pair(llama(key, kind, value)), "")
       for key in NUMBERS
       for kind, value in ((F32, 0.0), (F32, -1.0), (F32, float("nan")), (F32, float("inf")),
                           (F64, float("-inf")), (STRING, "1"), (BOOL, 1), (U32, 0))},
    "another architecture": (
        model().with_pair(Pair("general.architecture", STRING, "gpt2")), "'gpt2'"),
    "an architecture in capitals": (
        model().with_pair(Pair("general.architecture", STRING, "LLAMA")), "'LLAMA'"),
    "an architecture as a number": (model().with_pair(Pair("general.architecture", U32, 1)), "1"),
    "one part of several": (extra(Pair("split.count", U32, 3)), "one of 3 files"),
    "experts": (extra(llama("expert_count", U32, 8)), "llama.expert_count"),
    "experts in use": (extra(llama("expert_used_count", U32, 2)), "llama.expert_used_count"),
    "linear scaling": (extra(llama("rope.scaling.type", STRING, "linear")), "rope.scaling.type"),
    "yarn": (extra(llama("rope.scaling.type", STRING, "yarn")), "rope.scaling.type"),
    "a scaling factor": (extra(llama("rope.scaling.factor", F32, 4.0)), "rope.scaling.factor"),
    "the old scaling factor": (extra(llama("rope.scale_linear", F32, 0.25)), "rope.scale_linear"),
    "a scaling model": (extra(llama("rope.scaling.finetuned", BOOL, 1)), "scaling.finetuned"),
    "a sliding window": (extra(llama("attention.sliding_window", U32, 4096)), "sliding_window"),
    "no causal mask": (extra(llama("attention.causal", BOOL, 0)), "attention.causal"),
    "parallel residuals": (extra(llama("use_parallel_residual", BOOL, 1)), "use_parallel"),
    "a scale of logits": (extra(llama("logit_scale", F32, 0.5)), "logit_scale"),
    "an unknown key": (extra(llama("something.new", U32, 1)), "something.new"),
    "the name of the architecture alone": (extra(llama("", U32, 1)), "'llama.'"),
    "too many layers": (model().with_pair(llama("block_count", U32, 1 << 30)), "promises"),
    "heads that do not divide": (model().with_pair(llama("attention.head_count", U32, 3)), "3"),
}  # fmt: skip
