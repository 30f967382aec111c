"""`codellama models`: the family as a table."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from codellama.cli.sizes import human_bytes, human_count, table, weight_bytes
from codellama.cli.terminal import Console
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.model.family import MEMBERS
from codellama.quant.formats import Format

_FORMS = {"inst": "[INST]", "step": "<step>", None: "-"}


@dataclass(frozen=True, kw_only=True)
class _Row:
    name: str
    hub_name: str | None
    config: ModelConfig
    infill: bool
    chat_form: str | None


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama models [options]"
    parser.description = (
        "List nano, which comes with the package, and the twelve members of the Code Llama family."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


def run(args: Namespace) -> int:
    console = Console.open(args)
    rows = []
    try:
        rows.append(_nano())
    except CheckpointError as error:
        console.warn(str(error))
    rows += [
        _Row(
            name=m.name,
            hub_name=m.hub_name,
            config=m.config,
            infill=m.can_infill,
            chat_form=m.chat_form,
        )
        for m in MEMBERS
    ]
    if args.json:
        for row in rows:
            console.write(json.dumps(_object(row)) + "\n")
    else:
        console.write(table([_HEAD, *map(_cells, rows)], n_left=2))
        console.write(
            "\nGive --model a name of the second column, or the path of a folder or .gguf file.\n"
        )
    return 0


_HEAD = ["model", "give as", "params", "vocab", "context", "rope base", "infill", "chat", "Q4_0"]


def _cells(row: _Row) -> list[str]:
    c = row.config
    return [
        row.name,
        row.hub_name or row.name,
        human_count(c.n_params),
        str(c.vocab_size),
        str(c.max_seq_len),
        f"{c.rope_theta:,.0f}",
        "yes" if row.infill else "no",
        _FORMS[row.chat_form],
        human_bytes(weight_bytes(c, Format.Q4_0)),
    ]


def _object(row: _Row) -> dict[str, object]:
    c = row.config
    return {
        "name": row.name,
        "hub_name": row.hub_name,
        "parameters": c.n_params,
        "vocab_size": c.vocab_size,
        "max_seq_len": c.max_seq_len,
        "rope_theta": c.rope_theta,
        "infilling": row.infill,
        "chat_form": row.chat_form,
        "q4_0_bytes": weight_bytes(c, Format.Q4_0),
    }


def _nano() -> _Row:
    from codellama import checkpoint
    from codellama.checkpoint.hub import resolve

    reader = checkpoint.open(resolve("nano"))
    return _Row(
        name="nano",
        hub_name=None,
        config=reader.config,
        infill=reader.tokenizer().has_infill,
        chat_form=reader.chat_form,
    )
