"""Choosing among candidates without tests: the answer that most of them agree on.

Candidates are run on generated inputs, and those that give the same outputs stand together. The
largest group wins, and among equals the one that can do something with more inputs. This is the
consensus of CodeT (Chen et al. 2022, "CodeT: Code Generation with Generated Tests") with inputs in
the place of its generated assertions. It is a guess: what most candidates get wrong, it gets wrong.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from codellama.sandbox import Sandbox
from codellama.solve.candidates import parsed

N_INPUTS = 24
_Inputs = list[list[Any]]

_HARNESS = """
import ast as _ast, copy as _copy, json as _json
_found = []
for _given in _ast.literal_eval(input()):
    try:
        _found.append(repr({name}(*_copy.deepcopy(_given)))[:2000])
    except Exception as _error:
        _found.append(None)
print()
print(_json.dumps(_found))
"""


def function_to_call(source: str, name: str | None = None) -> ast.FunctionDef | None:
    """The function a source is about: the named one, else the last that is not private."""
    tree = parsed(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)] if tree else []
    if name is not None:
        return next((one for one in functions if one.name == name), None)
    shown = [one for one in functions if not one.name.startswith("_")]
    return shown[-1] if shown else None


def inputs_for(function: ast.FunctionDef, n: int = N_INPUTS, seed: int = 0) -> _Inputs:
    """Arguments for a function, made from its annotations; anything where there are none.

    A parameter without annotation gets the same kind of value in one call as others without.
    """
    chance = random.Random(seed)
    wanted = function.args.posonlyargs + function.args.args
    n_optional = len(function.args.defaults)
    required = wanted[: len(wanted) - n_optional] if n_optional else wanted
    kinds = ["int", "list[int]", "str", "list[str]", "float"]
    found: _Inputs = []
    for i in range(n):
        blank = ast.parse(kinds[i % len(kinds)], mode="eval").body
        found.append([_value(one.annotation or blank, chance) for one in required])
    return found


def _value(annotation: ast.expr, chance: random.Random) -> Any:
    """A value of an annotated type; None where the type is unknown."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            return _value(ast.parse(annotation.value, mode="eval").body, chance)
        except SyntaxError:
            return None
    if isinstance(annotation, ast.BinOp):  # X | Y
        return _value(chance.choice([annotation.left, annotation.right]), chance)
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        return _container(_name(annotation.value), parts, chance)
    name = _name(annotation)
    if name == "int":
        return chance.choice([0, 1, 2, 3, 5, 10, -1, chance.randint(-50, 100)])
    if name == "float":
        return chance.choice([0.0, 1.0, 0.5, -2.25, round(chance.uniform(-50, 50), 3)])
    if name == "bool":
        return chance.random() < 0.5
    if name == "str":
        letters = "aabbc XYZ123.,()"
        return "".join(chance.choice(letters) for _ in range(chance.choice([0, 1, 3, 6, 12])))
    if name in ("list", "List", "Sequence", "Iterable", "tuple", "Tuple", "set", "Set"):
        return _container(name, [ast.Name("int")], chance)
    if name in ("dict", "Dict", "Mapping"):
        return _container(name, [ast.Name("str"), ast.Name("int")], chance)
    if name == "Any":
        return chance.choice([0, 1, "a", "", None, [1, 2]])
    return None


def _container(name: str, parts: Sequence[ast.expr], chance: random.Random) -> Any:
    size = chance.choice([0, 1, 2, 3, 5, 8])
    if name in ("Optional", "Union"):
        chosen = chance.choice(list(parts))
        return None if name == "Optional" and chance.random() < 0.2 else _value(chosen, chance)
    if name in ("dict", "Dict", "Mapping") and len(parts) == 2:
        return {_value(parts[0], chance): _value(parts[1], chance) for _ in range(size)}
    if name in ("tuple", "Tuple"):
        is_open = len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...
        kinds = [parts[0]] * size if is_open or len(parts) == 1 else parts
        return tuple(_value(part, chance) for part in kinds)
    items = [_value(parts[0], chance) for _ in range(size)]
    if name in ("set", "Set"):
        return set(map(str, items)) if any(isinstance(i, list) for i in items) else set(items)
    return items


def _name(annotation: ast.expr) -> str:
    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    return annotation.id if isinstance(annotation, ast.Name) else ""


def outputs(box: Sandbox, source: str, name: str, inputs: _Inputs) -> tuple[str | None, ...] | None:
    """What a candidate gives for each input, as text; None for one that it cannot do.

    None altogether where the candidate does not get that far.
    """
    ran = box.run(source + _HARNESS.format(name=name), stdin=repr(inputs))
    if ran.status != "ok":
        return None
    try:
        found = json.loads(ran.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    is_right = isinstance(found, list) and len(found) == len(inputs)
    return tuple(found) if is_right else None


def most_agreed(
    box: Sandbox, candidates: Sequence[str], entry_point: str | None = None
) -> tuple[str, float] | None:
    """The candidate that most agree with, and the share of candidates that do.

    None where no candidate has a function that runs.
    """
    functions = [function_to_call(source, entry_point) for source in candidates]
    first = next((function for function in functions if function is not None), None)
    if first is None:
        return None
    name, inputs = first.name, inputs_for(first)  # all are run on what fits the first
    with ThreadPoolExecutor(box.n_workers) as threads:
        found = list(threads.map(lambda source: outputs(box, source, name, inputs), candidates))
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for source, given in zip(candidates, found, strict=True):
        if given is not None and any(one is not None for one in given):
            groups.setdefault(given, []).append(source)
    if not groups:
        return None
    _, best = max(
        groups.items(), key=lambda group: (len(group[1]), sum(one is not None for one in group[0]))
    )
    return best[0], len(best) / len(candidates)
