"""From what a user calls a model to where its files are.

Only this module ever reaches out to the network, and only for a hub name that is not in the local
cache yet. Files are fetched, never run.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from pathlib import Path

from codellama.errors import CheckpointError

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_WANTED = ["*.safetensors", "*.json", "tokenizer.model"]
_UNWANTED = ["*/*"]  # other formats of the same model live in folders of their own
_TIMEOUT_S = 10
_PACKAGE = Path(__file__).resolve().parent.parent
_CHOICES = "nano, a model folder, a .gguf file, or a hub name such as codellama/CodeLlama-7b-hf"


def resolve(model: str | Path) -> Path:
    """The folder or file of a model.

    "nano" is the one that comes with this package; what exists on disk is taken as it is; a name
    such as "org/name" is looked up in the hub's local cache and, if it is not there, fetched into
    it. A path that leads nowhere is returned too: `checkpoint.open` says what it found instead.

    Raises:
        CheckpointError: no model is called that, or it is not in the cache and the hub does not
            give it.
    """
    if isinstance(model, Path):
        return _expanded(model)
    if model == "nano":
        return _packaged()
    if not model:
        raise _unknown(model)
    path = _expanded(Path(model))
    if _exists(path) or _looks_like_a_path(model):
        return path
    if not _HUB_NAME.fullmatch(model) or ".." in model or "--" in model:
        raise _unknown(model)
    near = _near(path, cutoff=0.8)
    if near:
        raise CheckpointError(
            f"{model}: there is no such file or folder", hint=f"did you mean {' or '.join(near)}?"
        )
    return _cached(model) or _fetched(model)


def _packaged() -> Path:
    path = _PACKAGE / "nano"
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"nano is missing from this installation: {path} holds no config.json",
            hint="install the package again, or name another model",
        )
    return path


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # nobody of that name lives here
        return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or one that holds a NUL
        return False


def _looks_like_a_path(model: str) -> bool:
    return (
        model.startswith(("/", ".", "~"))
        or model.count("/") > 1
        or model.endswith("/")
        or "\\" in model
        or Path(model).suffix in (".gguf", ".safetensors", ".pth", ".json", ".model")
    )


def _near(path: Path, *, cutoff: float) -> list[str]:
    """What lies beside `path` under names like it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []
    return [
        str(path.parent / name) for name in difflib.get_close_matches(path.name, names, 3, cutoff)
    ]


def _unknown(model: str) -> CheckpointError:
    from codellama.model.family import MEMBERS

    known = {"nano": "nano"} | {member.name.lower(): member.hub_name for member in MEMBERS}
    near = _near(Path(model), cutoff=0.6) if "/" not in model else []
    near += [known[name] for name in difflib.get_close_matches(model.lower(), known, 1, 0.8)]
    shown = model if len(model) <= 100 else model[:97] + "..."
    hint = f"did you mean {' or '.join(near)}?" if near else f"give {_CHOICES}"
    return CheckpointError(f"there is no model called {shown!r}", hint=hint)


def _cached(name: str) -> Path | None:
    """The model's folder in the hub's local cache, if it is there and whole."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(
            snapshot_download(
                name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=True
            )
        )
    except Exception:  # it says so in a different way in each of its versions
        return None
    return path if _missing(path) is None else None


def _missing(folder: Path) -> str | None:
    """What a model's folder lacks; None where a fetch into it has come to its end."""
    names = {entry.name for entry in folder.iterdir() if entry.exists()}
    if "config.json" not in names:
        return "config.json"
    if not names & {"tokenizer.model", "tokenizer.json"}:
        return "tokenizer.model"
    index = folder / "model.safetensors.index.json"
    if index.name not in names:
        return None if fnmatch.filter(names, "*.safetensors") else "model.safetensors"
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return min(shards - names, default=None)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # all there, and damaged: the reader says how


def _fetched(name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(
            snapshot_download(
                name,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                etag_timeout=_TIMEOUT_S,
            )
        )
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name}: the hub gives this model only to accounts that have accepted its licence",
            hint="accept it on the model's page, then log in with `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{name}: the hub has no such model, or keeps it private",
            hint="check the spelling; for a private model log in with `hf auth login`",
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{name}: the local cache does not have it, or not all of it, and the hub cannot be "
            f"reached: {_root(error)}",
            hint="connect once to fetch it, or give nano, a model folder or a .gguf file",
        ) from error
    missing = _missing(folder)
    if missing is not None:  # offline, the library also returns what an earlier fetch left behind
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise CheckpointError(
            f"{name}: neither the local cache nor the hub has all of it: {missing} is missing, and "
            f"there is {found}",
            hint="if you are offline, connect and try again; if the model comes as .gguf files, "
            "download one of them and give its path",
        )
    return folder


def _root(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
