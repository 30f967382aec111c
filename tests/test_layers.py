"""Imports run one way, and torch stays out of the default path."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import codellama

PACKAGE = Path(codellama.__file__).parent

# A module imports only from rows below its own.
ROWS = [
    {"__main__"},
    {"cli"},
    {"cluster"},
    {"server", "lsp", "eval", "plan"},
    {"engine", "train", "bench"},
    {"runners"},
    {"checkpoint"},
    {"solve"},
    {"model", "quant"},
    {"text", "sandbox"},
    {"errors", "strict_json", "_native", "nano"},
]
ROW = {name: depth for depth, names in enumerate(ROWS) for name in names}
MAY_IMPORT_TORCH = (
    "train/",
    "model/transformer.py",
    "runners/torch.py",
    "runners/fused/",
    "runners/triton/",
)


def modules() -> list[str]:
    return sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", modules())
def test_imports_run_downwards(module: str) -> None:
    own = module.split("/")[0].removesuffix(".py")
    if own == "__init__":  # the public names reach everywhere, on first use
        return
    for name in imported(ast.parse((PACKAGE / module).read_text())):
        parts = name.split(".")
        if parts[0] == "codellama" and len(parts) > 1 and parts[1] in ROW:
            assert parts[1] == own or ROW[parts[1]] > ROW[own], f"{module} imports {name}"


@pytest.mark.parametrize("module", modules())
def test_torch_is_imported_where_it_belongs(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(ast.parse((PACKAGE / module).read_text()))}
    if not module.startswith(MAY_IMPORT_TORCH):
        assert not roots & {"torch", "transformers"}


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, codellama; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
