"""`codellama info`: what a checkpoint is, from its headers."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from codellama.cli.sizes import SHOWN, human_bytes, human_count, table, weight_bytes
from codellama.cli.terminal import Console
from codellama.model import family
from codellama.runners import kv_bytes_per_token, natural_kv_cache

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader

_KINDS = {"hf": "Hugging Face folder", "meta": "Meta folder", "gguf": "GGUF file"}
_FORMS = {
    "inst": "[INST] turns",
    "step": "turns that end with <step>",
    None: "none: this is not a chat model",
}
_LABEL = 14


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama info MODEL [options]"
    parser.description = (
        "Describe a checkpoint. Only headers are read, so this is quick for any size, but the\n"
        "headers are held against each other: missing or misshapen tensors are found."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="nano, a hub name, or the path of a folder or .gguf file"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: Namespace) -> int:
    console = Console.open(args)
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve

    facts = describe(args.model, checkpoint.open(resolve(args.model)))
    if args.json:
        console.write(json.dumps(facts) + "\n")
    else:
        console.write(_page(facts))
    return 0


def describe(name: str, reader: Reader) -> dict[str, Any]:
    """Everything there is to say about an open checkpoint, as one JSON object."""
    config = reader.config
    found = Counter(info.format for info in reader.infos.values())
    matches = family.matches(config)
    closer = [member for member in matches if member.chat_form == reader.chat_form]
    per_token = kv_bytes_per_token(config, natural_kv_cache(reader, "cpu"))
    return {
        "model": name,
        "path": str(reader.path),
        "kind": reader.kind,
        "parameters": config.n_params,
        "weight_bytes": sum(info.n_bytes for info in reader.infos.values()),
        "members": [member.name for member in closer or matches],
        "config": asdict(config),
        "infilling": reader.tokenizer().has_infill,
        "chat_form": reader.chat_form,
        "has_chat_template": reader.chat_template is not None,
        "bos_id": reader.generation.bos_id,
        "eos_ids": list(reader.generation.eos_ids),
        "tensor_formats": {str(format): n for format, n in sorted(found.items())},
        "memory": {
            "weights": {str(format): weight_bytes(config, format) for format in SHOWN},
            "kv_cache_per_1000_tokens": 1000 * per_token,
            "kv_cache_full_context": config.max_seq_len * per_token,
        },
        "notes": list(reader.notes),
    }


def _page(facts: Mapping[str, Any]) -> str:
    c, memory = facts["config"], facts["memory"]
    shared = "" if c["n_kv_heads"] == c["n_heads"] else f" sharing {c['n_kv_heads']} keys/values"
    tied = ", input and output tied" if c["tie_embeddings"] else ""
    template = "; the files have a template, which is never run" * facts["has_chat_template"]
    formats = ", ".join(f"{n} {name}" for name, n in facts["tensor_formats"].items())
    lines = [
        ("model", facts["model"]),
        ("kind", f"{_KINDS[facts['kind']]} at {facts['path']}"),
        ("size", f"{human_count(facts['parameters'])} parameters ({facts['parameters']:,}), "
                 f"{human_bytes(facts['weight_bytes'])} of weights"),
        ("sizes of", ", ".join(facts["members"]) or "no member of the Code Llama family"),
        ("layers", f"{c['n_layers']}, of dim {c['dim']} and feed-forward {c['ffn_dim']}"),
        ("heads", f"{c['n_heads']} of {c['head_dim']}{shared}"),
        ("vocabulary", f"{c['vocab_size']}{tied}"),
        ("context", f"{c['max_seq_len']} tokens"),
        ("RoPE base", f"{c['rope_theta']:,.0f}"),
        ("infilling", "yes" if facts["infilling"] else "no: its tokenizer has no infilling pieces"),
        ("chat", _FORMS[facts["chat_form"]] + template),
        ("begin, end", f"{facts['bos_id']}, {' or '.join(map(str, facts['eos_ids'])) or None}"),
        ("tensors", formats),
    ]  # fmt: skip
    page = "".join(f"{label:<{_LABEL}}{text}\n" for label, text in lines)
    page += "\nmemory\n" + _indented(
        table(
            [[f"weights in {name}", human_bytes(n)] for name, n in memory["weights"].items()]
            + [
                [
                    "keys and values per 1000 tokens",
                    human_bytes(memory["kv_cache_per_1000_tokens"]),
                ],
                ["keys and values, full context", human_bytes(memory["kv_cache_full_context"])],
            ]
        )
    )
    if facts["notes"]:
        page += "\nnotes\n" + "".join(f"  {note}\n" for note in facts["notes"])
    return page


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
