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
import secrets
import sys
import types
from typing import Any

from codellama.sandbox.framing import Ended, read_message, write_message
from codellama.sandbox.inside import note
from codellama.sandbox.plain import NotPlain, decode, encode

MAX_ANSWER = 16 << 20
_BUILTINS = frozenset(dir(builtins))


class Broken(BaseException):
    """The candidate ended, or broke the protocol: no test can pass any more."""


class CandidateError(Exception):
    """The candidate raised an exception that is none of Python's own."""


def test(source: str, entry_point: str | None, link: int) -> None:
    """Runs tests against the candidate behind `link` and notes the verdict."""
    try:
        tree = ast.parse(source, "tests.py")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        _verdict("error", f"the tests are no Python: {error}")
        return
    candidate = Candidate(link)
    try:
        names = candidate.load()
    except Broken as error:
        _verdict("error", str(error))
        return
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    for name in _given(tree, names, entry_point):
        space[name] = Remote(candidate, ["name", name], name)
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
    _verdict(status, reason)


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


def _verdict(status: str, reason: str) -> None:
    note(json.dumps({"status": status, "reason": reason[:500]}))


class Candidate:
    """The process that answers."""

    def __init__(self, link: int) -> None:
        self.link = link
        self.broken: str | None = None
        self.functions: list[Any] = []
        self.n_asked = 0

    def load(self) -> dict[str, str]:
        """The names the solution defines, and their kinds."""
        first = self._read()
        if "failed" in first:
            kind, text = self._error_of(first["failed"])
            raise self._break(f"the solution does not load: {kind}: {text}")
        names = first.get("names")
        if type(names) is not dict or not all(type(kind) is str for kind in names.values()):
            raise self._break("the candidate broke the protocol")
        return names

    def ask(
        self,
        do: str,
        on: list[Any],
        args: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        """One request and its one answer."""
        if self.broken is not None:
            raise Broken(self.broken)
        self.n_asked += 1
        call_id = secrets.token_hex(16)
        try:
            sent = [self._text(one) for one in args]
            sent_named = {key: self._text(one) for key, one in (named or {}).items()}
        except NotPlain as error:
            raise TypeError(f"the tests pass what cannot be sent: {error}") from None
        request = {"id": call_id, "do": do, "on": on, "args": sent, "named": sent_named}
        try:
            write_message(self.link, request)
        except Ended:
            raise self._break("the candidate ended before it answered") from None
        answer = self._read()
        while "back" in answer:
            self._call_function(answer)
            answer = self._read()
        if answer.get("id") != call_id:
            raise self._break("the candidate answered what was not asked")
        if "left" in answer:
            raise self._break("the candidate left the program")
        if "raises" in answer:
            kind, text = self._error_of(answer["raises"])
            raise _exception(kind, text)
        try:
            value = self._value(answer.get("value"))
            if "args" in answer:
                self._update(args, answer["args"])
        except NotPlain as error:
            raise self._break(str(error)) from None
        return value

    def _read(self) -> dict[str, Any]:
        try:
            answer = read_message(self.link, MAX_ANSWER)
        except Ended:
            raise self._break("the candidate ended before it answered") from None
        if type(answer) is not dict:
            raise self._break("the candidate broke the protocol")
        return answer

    def _break(self, why: str) -> Broken:
        self.broken = self.broken or why
        return Broken(why)

    def _error_of(self, raised: Any) -> tuple[str, str]:
        if (
            type(raised) is not list
            or len(raised) != 3
            or not all(type(part) is str for part in raised)
        ):
            raise self._break("the candidate broke the protocol")
        return raised[0], raised[1]

    def _call_function(self, request: dict[str, Any]) -> None:
        """A function of the tests that the candidate got as an argument is called by it."""
        try:
            function = self.functions[request["back"]]
            args = [self._value(one) for one in request["args"]]
        except (NotPlain, LookupError, TypeError):
            raise self._break("the candidate broke the protocol") from None
        try:
            answer = {"value": self._text(function(*args))}
        except Exception as error:
            answer = {"raises": f"{type(error).__name__}: {error}"}
        write_message(self.link, answer)

    def _update(self, args: tuple[Any, ...], after: Any) -> None:
        """What a function changes in its arguments is seen by its caller."""
        if type(after) is not list or len(after) != len(args):
            raise NotPlain("the candidate broke the protocol")
        for old, text in zip(args, after, strict=True):
            if type(old) in (list, bytearray):
                new = self._value(text)
                if type(new) is type(old):
                    old[:] = new
            elif type(old) in (dict, set):
                new = self._value(text)
                if type(new) is type(old):
                    old.clear()
                    old.update(new)

    def _text(self, value: Any) -> Any:
        return encode(value, self._handle)

    def _handle(self, value: Any) -> list[Any]:
        if type(value) is Remote:
            on: list[Any] = object.__getattribute__(value, "_remote_on")
            return on
        if callable(value):
            self.functions.append(value)
            return ["back", len(self.functions) - 1]
        raise NotPlain(f"{type(value).__name__} is no plain data")

    def _value(self, text: Any) -> Any:
        return decode(text, self._held)

    def _held(self, tag: str, rest: Any) -> Any:
        if tag == "o" and len(rest) == 2 and type(rest[0]) is int and type(rest[1]) is str:
            return Remote(self, ["o", rest[0]], rest[1])
        raise NotPlain("the candidate broke the protocol")


def _exception(kind: str, text: str) -> Exception:
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(text)
        except TypeError:  # some want more than a text
            pass
    return CandidateError(f"{kind}: {text}")


class Remote:
    """Something of the candidate's: a function, a class, or an object that is no plain data.

    It can be called, iterated, indexed, and its attributes read and set; each answer is plain data
    or another of these. It compares by identity, and it is always true: nothing that the candidate
    defines takes part in a comparison.
    """

    __slots__ = ("_remote_candidate", "_remote_name", "_remote_on")
    __contains__ = None

    def __init__(self, candidate: Candidate, on: list[Any], name: str) -> None:
        object.__setattr__(self, "_remote_candidate", candidate)
        object.__setattr__(self, "_remote_on", on)
        object.__setattr__(self, "_remote_name", name)

    def _remote_ask(self, do: str, *args: Any) -> Any:
        candidate: Candidate = object.__getattribute__(self, "_remote_candidate")
        return candidate.ask(do, object.__getattribute__(self, "_remote_on"), args)

    def __call__(self, *args: Any, **named: Any) -> Any:
        candidate: Candidate = object.__getattribute__(self, "_remote_candidate")
        return candidate.ask("call", object.__getattribute__(self, "_remote_on"), args, named)

    def __getattr__(self, name: str) -> Any:
        return self._remote_ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote_ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._remote_ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._remote_ask("set_item", key, value)

    def __len__(self) -> int:
        return int(self._remote_ask("length"))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        items = self._remote_ask("list")
        if type(items) is not list:
            raise TypeError("the candidate gave no list of items")
        return iter(items)

    def __next__(self) -> Any:
        return self._remote_ask("next")

    def __str__(self) -> str:
        return self._exact_text("text")

    def __repr__(self) -> str:
        return self._exact_text("repr")

    def _exact_text(self, do: str) -> str:
        text = self._remote_ask(do)
        if type(text) is not str:
            raise TypeError("the candidate gave no text")
        return text

    def __eq__(self, other: object) -> bool:
        if type(other) is not Remote:
            return False
        mine: list[Any] = object.__getattribute__(self, "_remote_on")
        theirs: list[Any] = object.__getattribute__(other, "_remote_on")
        return mine == theirs

    def __hash__(self) -> int:
        return hash(tuple(object.__getattribute__(self, "_remote_on")))
