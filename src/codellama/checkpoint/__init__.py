"""Checkpoints: bytes on disk to and from named tensors, without torch.

`open` looks at what a path holds, not at what it is called, and returns a `Reader`.
"""

from __future__ import annotations

import difflib
import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.checkpoint.files import Folder, Mistake, open_file, what_is
from codellama.errors import CheckpointError

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader

__all__ = ["open"]

_LOOKED_FOR = (
    "config.json with model.safetensors (Hugging Face), "
    "params.json with consolidated.00.pth (Meta), or the path of a .gguf file"
)


def open(path: str | Path) -> Reader:
    """Opens the checkpoint at `path`: a Hugging Face folder, a Meta folder or a GGUF file.

    Headers are read and every tensor's name and shape is matched; the weights are not touched.

    Raises:
        CheckpointError: there is nothing at the path, it is not a checkpoint of these kinds, or
            the checkpoint is damaged or incomplete.
        ConfigError: the configuration asks for something this architecture does not do.
    """
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):
        is_folder, exists = False, False
    if not exists:
        raise _nothing_there(path)
    return _open_folder(path) if is_folder else _open_file(path)


def _open_folder(path: Path) -> Reader:
    names = Folder(path).names
    has_safetensors = bool(fnmatch.filter(names, "*.safetensors")) or (
        "model.safetensors.index.json" in names
    )
    has_meta = bool(fnmatch.filter(names, "consolidated.*.pth"))
    if has_safetensors and ("config.json" in names or not has_meta):
        from codellama.checkpoint import huggingface

        return huggingface.open(path)
    if has_meta:
        from codellama.checkpoint import meta

        return meta.open(path)
    if fnmatch.filter(names, "pytorch_model*.bin"):
        raise CheckpointError(
            f"{path}: has its weights only as pickles (pytorch_model.bin), which are not read "
            "because opening one can run code",
            hint="download the .safetensors files of the model, or convert with transformers where "
            "you trust it: LlamaForCausalLM.from_pretrained(SRC).save_pretrained(DST)",
        )
    ggufs = sorted(fnmatch.filter(names, "*.gguf"))
    if ggufs:
        raise CheckpointError(
            f"{path}: is a folder with {len(ggufs)} GGUF file{'s' if len(ggufs) > 1 else ''}",
            hint=f"give the file itself, such as {path / ggufs[0]}",
        )
    found = ", ".join(sorted(names)[:5]) or "nothing at all"
    raise CheckpointError(
        f"{path}: holds no checkpoint: looked for {_LOOKED_FOR}, and found {found}"
        + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    )


def _open_file(path: Path) -> Reader:
    with open_file(path) as file:
        head = file.head()
    if head.startswith(b"GGUF"):
        from codellama.checkpoint import gguf

        return gguf.open(path)
    found, hint = what_is(head), f"give {_LOOKED_FOR}"
    text = found or "is not a model file of a known kind"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.size:
        text = "is a single safetensors file, which does not say what model it belongs to"
        hint = f"give the folder that also has config.json and a tokenizer ({path.parent})"
    elif found in (Mistake.ZIP, Mistake.PICKLE):
        hint = f"give the folder that also has params.json and tokenizer.model ({path.parent})"
    elif head.lstrip()[:1] == b"{":
        text, hint = "is a JSON file, not weights", f"give its folder ({path.parent})"
    raise CheckpointError(f"{path}: {text}", hint=hint)


def _nothing_there(path: Path) -> CheckpointError:
    """The error for a path that leads nowhere, with names like it that do exist."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    near = difflib.get_close_matches(path.name, siblings, n=3)
    hint = f"did you mean {' or '.join(str(path.parent / name) for name in near)}?"
    return CheckpointError(
        f"{path}: there is no such file or folder", hint=hint if near else f"give {_LOOKED_FOR}"
    )
