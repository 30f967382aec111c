"""The candidate's side of a check: loads a solution and answers calls with plain data.

Nothing here is trusted by the other side: the solution shares this process and may change it all.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from codellama.sandbox.framing import Ended, read_message, write_message
from codellama.sandbox.plain import NotPlain, decode, encode


def answer(source: str, link: int, name: str = "solution") -> None:
    """Loads `source` as a module and answers requests on `link` until it is closed."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(source, f"{name}.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        write_message(link, {"failed": _raised(error)})
        raise
    kinds = {key: _kind(value) for key, value in list(vars(module).items()) if type(key) is str}
    write_message(link, {"names": kinds})
    _Answers(module, link).serve()


def _kind(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, type):
        return f"exception {_builtin(value)}" if issubclass(value, BaseException) else "class"
    return "callable" if callable(value) else "value"


def _raised(error: BaseException) -> list[str]:
    """The nearest built-in class's name, and the text."""
    try:
        text = str(error)[:2000]
    except BaseException:
        text = ""
    return [_builtin(type(error)), text, type(error).__name__]


def _builtin(kind: type) -> str:
    """The name of the nearest class that is Python's own."""
    return next(base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")


class _Answers:
    def __init__(self, module: types.ModuleType, link: int) -> None:
        self.module = module
        self.link = link
        self.kept: list[Any] = []
        self.handles: dict[int, int] = {}

    def serve(self) -> None:
        while True:
            try:
                request = read_message(self.link)
            except Ended:  # the tests are over
                return
            try:
                reply = self.reply(request)
            except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
                write_message(self.link, {"id": request["id"], "left": type(error).__name__})
                os._exit(1)
            except BaseException as error:
                reply = {"raises": _raised(error)}
            write_message(self.link, {"id": request["id"], **reply})

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        do, target = request["do"], self.value(request["on"])
        arguments = [self.value(one) for one in request["args"]]
        if do == "call":
            named = {key: self.value(one) for key, one in request["named"].items()}
            result = target(*arguments, **named)
            reply = {"value": self.text(result)}
            after = [self.text(one) for one in arguments]
            if after != request["args"]:
                reply["args"] = after
            return reply
        return {"value": self.text(_DO[do](target, *arguments))}

    def value(self, text: Any) -> Any:
        return decode(text, self.held)

    def held(self, tag: str, rest: Any) -> Any:
        if tag == "name":
            return getattr(self.module, rest[0])
        if tag == "module":
            return self.module
        if tag == "o":
            return self.kept[rest[0]]
        if tag == "back":
            return lambda *arguments: self.call_back(rest[0], arguments)
        raise NotPlain(f"unknown tag {tag}")

    def text(self, value: Any) -> Any:
        return encode(value, self.handle)

    def handle(self, value: Any) -> list[Any]:
        number = self.handles.get(id(value))
        if number is None:
            number = self.handles[id(value)] = len(self.kept)
            self.kept.append(value)  # kept alive, so its id stays its own
        return ["o", number, type(value).__name__]

    def call_back(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """Calls a function of the tests that was passed to the solution."""
        write_message(self.link, {"back": number, "args": [self.text(one) for one in arguments]})
        answer = read_message(self.link)
        if "raises" in answer:
            raise RuntimeError(answer["raises"])
        return self.value(answer["value"])


_DO: dict[str, Any] = {
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "set_item": lambda target, key, value: target.__setitem__(key, value),
    "length": len,
    "list": list,
    "next": next,
    "text": str,
    "repr": repr,
    "is": lambda target, other: isinstance(other, target),
    "equal": lambda target, other: bool(target == other),
}
