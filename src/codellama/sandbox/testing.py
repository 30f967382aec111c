"""The tests' side of a check. This process never runs a line of the candidate's.

Tests see a stand-in for each name the solution defines. A call on it goes to the candidate's
process with a fresh random id, and what comes back is plain data of exact types, so comparing,
hashing and arithmetic happen here, with Python's own methods. Objects of the solution's classes
stay with the candidate; here they are handles, equal only to themselves.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import sys
import types
from typing import Any

from codellama.sandbox.candidate import Broken, Candidate, Remote
from codellama.sandbox.inside import note

_BUILTINS = frozenset(dir(builtins))


def test(source: str, entry_point: str | None, link: int) -> None:
    """Runs tests against the candidate behind `link` and notes the verdict."""
    try:
        tree = ast.parse(source, "tests.py")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        verdict("error", f"the tests are no Python: {error}")
        return
    candidate = Candidate(link)
    try:
        names = candidate.load()
    except Broken as error:
        verdict("error", str(error))
        return
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    try:
        for name in _given(tree, names, entry_point):
            space[name] = candidate.named(name, names[name])
    except Broken as error:
        verdict("error", str(error))
        return
    candidate.n_asked = 0
    for name in _modules(tree, names):
        space[name] = importlib.import_module(name)
    status, reason = "ok", "passed"
    try:
        exec(compile(tree, "tests.py", "exec", dont_inherit=True), space)
        if entry_point is not None:
            _call_check(space, entry_point, names, candidate)
    except Broken as error:
        status, reason = "error", str(error)
    except AssertionError as error:
        status, reason = "failed", f"an assertion failed: {_where(error, source)}"
    except BaseException as error:
        status, reason = "failed", f"{type(error).__name__}: {error}: {_where(error, source)}"
    if candidate.broken is not None:
        status, reason = "error", candidate.broken
    elif status == "ok" and not candidate.n_asked:
        status, reason = "error", "the tests call nothing of the solution"
    verdict(status, reason)


def _call_check(
    space: dict[str, Any], entry_point: str, names: dict[str, str], candidate: Candidate
) -> None:
    check = space.get("check")
    if type(check) is not types.FunctionType:
        return
    if entry_point not in names:
        raise NameError(f"the solution defines no {entry_point}")
    check(Remote(candidate, ["name", entry_point], entry_point))


def _given(tree: ast.Module, names: dict[str, str], entry_point: str | None) -> set[str]:
    """The solution's names that tests may see: none that would replace one of Python's own.

    A solution may be asked for a function that is called like a built-in one; then tests have no
    other name to call, or it is the entry point.
    """
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found = {name for name in names if not name.startswith("__")}
    foreign = used & found - _BUILTINS
    shadowing = found & _BUILTINS
    return (found - shadowing) | (shadowing & ({entry_point} if foreign else used))


def _modules(tree: ast.Module, names: dict[str, str]) -> set[str]:
    """Modules that tests take from the solution's imports; they get Python's own instead."""
    with_dot = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return {name for name in with_dot & set(names) if name in sys.stdlib_module_names}


def _where(error: BaseException, source: str) -> str:
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = source.splitlines()
    if line is None or line > len(lines):
        return "in the tests"
    return f"line {line} of the tests: {lines[line - 1].strip()[:200]}"


def verdict(status: str, reason: str) -> None:
    note(json.dumps({"status": status, "reason": reason[:500]}))
