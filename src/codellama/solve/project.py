"""The part of a user's project that its tests need: Python files around the one that is made."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from codellama.errors import RequestError
from codellama.solve.candidates import parsed

_SKIPPED = {"node_modules", "venv", "site-packages", "build", "dist"}
_KINDS = {".py", ".json", ".txt", ".csv", ".toml", ".ini", ".cfg", ".yaml", ".yml"}


def project_files(
    root: Path, needed: Sequence[Path], *, max_bytes: int = 2 << 20
) -> dict[str, bytes]:
    """`needed` files, and small text files beside and below them, by path from `root`.

    Hidden directories and those of installed packages are left out.

    Raises:
        RequestError: a needed file is not there or not below `root`, or all is too much.
    """
    root = root.resolve()
    found: dict[str, bytes] = {}
    size = 0
    for path in [*needed, *_around(root, [one.parent for one in needed])]:
        path = path.resolve()
        if not path.is_relative_to(root):
            raise RequestError(f"{path} is not below {root}", hint="run this in the project's root")
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        try:
            found[name] = path.read_bytes()
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}") from error
        size += len(found[name])
        if size > max_bytes:
            raise RequestError(
                f"the files around the tests have more than {max_bytes} bytes",
                hint="put the file and its tests into a directory of their own",
            )
    return found


def _around(root: Path, folders: Sequence[Path]) -> Iterator[Path]:
    for folder in {one.resolve() for one in folders}:
        for place, below, names in os.walk(folder):
            below[:] = [
                one
                for one in sorted(below)
                if not one.startswith((".", "__")) and one not in _SKIPPED
            ]
            if (Path(place) / "pyvenv.cfg").exists():
                below[:] = []
                continue
            yield from (Path(place, one) for one in sorted(names) if Path(one).suffix in _KINDS)
        while folder.is_relative_to(root):  # what makes it a package, and pytest's settings
            yield from (folder / n for n in ("__init__.py", "conftest.py") if (folder / n).exists())
            folder = folder.parent


def module_asked_for(tests: Sequence[Path], root: Path) -> str | None:
    """The one module that tests import and nobody has; None where that is none or several."""
    missing = set()
    for path in tests:
        tree = parsed(path.read_text())
        for name in _imported(tree) if tree is not None else ():
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or _is_here(top, root, path.parent):
                continue
            try:
                is_installed = importlib.util.find_spec(top) is not None
            except (ImportError, ValueError):
                is_installed = False
            if not is_installed:
                missing.add(name)
    return missing.pop() if len(missing) == 1 else None


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _is_here(top: str, *folders: Path) -> bool:
    return any((one / f"{top}.py").exists() or (one / top).is_dir() for one in folders)
