"""A user's own test files, under pytest."""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama.sandbox.candidate import Broken, Candidate
from codellama.sandbox.inside import LINK_FD
from codellama.sandbox.testing import verdict


def test(job: dict[str, Any]) -> None:
    """Runs pytest over files in the working directory and notes the verdict.

    `module` names the module that is another process's; None means that all is here.
    """
    add_project_paths(job["folders"])
    candidate = None
    if job["module"] is not None:
        candidate = Candidate(LINK_FD)
        try:
            module = _stand_in(candidate, job["module"])
        except Broken as error:
            verdict("error", str(error))
            return
        sys.meta_path.insert(0, _Finder(job["module"], module))
    try:
        import pytest
    except ImportError:
        verdict("error", "pytest is not installed where the sandbox takes packages from")
        return
    seen = _Seen()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=sys", "--import-mode=importlib"]
    code = int(pytest.main([*options, *job["test_paths"]], plugins=[seen]))
    if candidate is not None and candidate.broken is not None:
        verdict("error", candidate.broken)
    elif seen.failed:
        verdict("failed", seen.failed[0])
    elif code != 0 or not seen.n_passed:
        verdict("error", f"pytest ended with code {code} and {seen.n_passed} passed tests")
    else:
        verdict("ok", f"{seen.n_passed} tests passed")


def add_project_paths(folders: Sequence[str]) -> None:
    """Modules are found from the working directory, from `src` in it and from `folders`."""
    here = Path.cwd()
    places = [here, here / "src", *(here / folder for folder in folders)]
    sys.path[:0] = [str(path) for path in dict.fromkeys(places) if path.is_dir()]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"


def _stand_in(candidate: Candidate, name: str) -> types.ModuleType:
    names = candidate.load()
    module = types.ModuleType(name)
    for key, kind in names.items():
        if kind == "module":
            if key in sys.stdlib_module_names:
                setattr(module, key, importlib.import_module(key))
        elif not key.startswith("__"):
            setattr(module, key, candidate.named(key, kind))
    # `from module import *` must not replace what tests have from Python itself.
    module.__dict__["__all__"] = sorted(
        key
        for key in vars(module)
        if not key.startswith("_")
        and key not in sys.stdlib_module_names
        and key != "pytest"
        and not hasattr(builtins, key)
    )
    return module


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module, made beforehand, to whoever imports it.

    Tests beside it may leave out the packages it is in.
    """

    def __init__(self, name: str, module: types.ModuleType) -> None:
        parts = name.split(".")
        shorter = {".".join(parts[i:]) for i in range(1, len(parts))}
        self.names = {name} | shorter - sys.stdlib_module_names
        self.module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return self.module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Seen:
    """Counts what pytest reports."""

    def __init__(self) -> None:
        self.n_passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._note_failure(report)
        elif report.passed and report.when == "call":
            self.n_passed += 1

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._note_failure(report)

    def _note_failure(self, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = str(report.longreprtext if crash is None else crash.message).strip()
        lines = text.splitlines() or [""]
        self.failed.append(f"{report.nodeid}: {lines[-1 if crash is None else 0]}"[:400])
