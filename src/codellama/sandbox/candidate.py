"""A candidate in another process, as its tests see it."""

from __future__ import annotations

import builtins
import secrets
from typing import Any

from codellama.sandbox.framing import Ended, read_message, write_message
from codellama.sandbox.plain import NotPlain, decode, encode

MAX_ANSWER = 16 << 20


class Broken(BaseException):
    """The candidate ended, or broke the protocol: no test can pass any more."""


class CandidateError(Exception):
    """The candidate raised an exception that is none of Python's own."""


class Candidate:
    """The process that answers."""

    def __init__(self, link: int) -> None:
        self.link = link
        self.broken: str | None = None
        self.functions: list[Any] = []
        self.exceptions: dict[str, Any] = {}
        self.n_asked = 0

    def load(self) -> dict[str, str]:
        """The names the solution defines, and their kinds."""
        first = self._read()
        if "failed" in first:
            self._check_error(first["failed"])
            _, text, kind = first["failed"]
            raise self._break(f"the solution does not load: {kind}: {text}")
        names = first.get("names")
        if type(names) is not dict or not all(type(kind) is str for kind in names.values()):
            raise self._break("the candidate broke the protocol")
        return names

    def named(self, name: str, kind: str) -> Any:
        """What tests see under a name of the solution: plain data as it is, else a stand-in.

        An exception class is made here anew, so that tests can expect it.
        """
        if kind == "value":
            return self.ask("get", ["module"], (name,))
        base = getattr(builtins, kind.removeprefix("exception "), None)
        if kind.startswith("exception ") and isinstance(base, type):
            self.exceptions[name] = type(name, (base,), {"__module__": "solution"})
            return self.exceptions[name]
        return Remote(self, ["name", name], name)

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
            raise self._exception(answer["raises"])
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

    def _check_error(self, raised: Any) -> None:
        if (
            type(raised) is not list
            or len(raised) != 3
            or not all(type(part) is str for part in raised)
        ):
            raise self._break("the candidate broke the protocol")

    def _exception(self, raised: Any) -> Exception:
        """What the candidate raised: its own class where tests know it, else Python's nearest."""
        self._check_error(raised)
        base, text, name = raised
        found = self.exceptions.get(name) or getattr(builtins, base, None)
        if isinstance(found, type) and issubclass(found, Exception):
            try:
                return found(text)
            except TypeError:  # some want more than a text
                pass
        return CandidateError(f"{name}: {text}")

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


class Remote:
    """Something of the candidate's: a function, a class, or an object that is no plain data.

    It can be called, iterated, indexed, and its attributes read and set; each answer is plain data
    or another of these. It is always true and equals no plain data: what the candidate defines
    takes part in a comparison only where both sides are the candidate's.
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
        return type(other) is Remote and self._remote_ask("equal", other) is True

    def __instancecheck__(self, other: object) -> bool:
        return type(other) is Remote and self._remote_ask("is", other) is True

    def __hash__(self) -> int:
        return hash(tuple(object.__getattribute__(self, "_remote_on")))
