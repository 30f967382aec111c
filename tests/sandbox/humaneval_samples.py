"""Samples for scorers to agree on: right ones, wrong ones and odd ones, the same for each seed.

None does anything that would need a sandbox: wrong ones are the canonical solutions with an
operator, a constant or a statement changed, and the odd ones are listed below.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data" / "eval"

ODD = (
    "",
    "    return None\n",
    "    return\n",
    "    pass\n",
    "    return 0\n",
    "    return True\n",
    "    return []\n",
    "    return ''\n",
    "    return (\n",
    "return 1\n",
    "    raise ValueError('no')\n",
    "    raise SystemExit\n",
    "    exit()\n",
    "    assert False\n",
    "    return undefined\n",
    "    print('hello')\n    return 1\n",
    "    return input()\n",
    "    return float('nan')\n",
    "    return lambda *a: 1\n",
    "    yield 1\n",
    "    return x" + "x" * 500 + "\n",
    "    import this_is_not_there\n",
    "    return [[[[]]]]\n",
    "    return object()\n",
    "    return __import__('math').inf\n",
    "    return 'é\\ud800'\n",
    "\tmixed = 1\n        return mixed\n",
    "    return eval('1 +')\n",
    "    global abs\n    abs = None\n    return 1\n",
    "    class A:\n        pass\n    return A()\n",
)
ENDLESS = "    while True:\n        pass\n"

_SWAPPED: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Add,), ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,), ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE,),
    ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.And: (ast.Or,),
    ast.Or: (ast.And,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Not: (ast.UAdd,),
    ast.USub: (ast.UAdd,),
}  # fmt: skip


def problems() -> list[dict[str, Any]]:
    """HumanEval's, in order."""
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def helpers(problem: dict[str, Any]) -> str:
    """What the prompt defines besides the function that is asked for: its tests may use it."""
    tree = ast.parse(problem["prompt"] + "    pass\n")
    name = problem["entry_point"]
    rest = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == name)]
    return "\n".join(ast.unparse(node) for node in rest)


def check_of(problem: dict[str, Any], completion: str) -> tuple[str, str, str]:
    """What `Sandbox.check` takes."""
    tests = f"{helpers(problem)}\n{problem['test']}"
    return problem["prompt"] + completion, tests, problem["entry_point"]


def samples(n: int, *, n_endless: int, seed: int = 0) -> Iterator[tuple[int, str]]:
    """`n` pairs of a problem's number and a completion; every problem comes up equally often."""
    chance = random.Random(seed)
    known = problems()
    endless = set(chance.sample(range(n), n_endless))
    for i in range(n):
        at = i % len(known)
        if i in endless:
            yield at, ENDLESS
            continue
        drawn = chance.random()
        canonical: str = known[at]["canonical_solution"]
        if drawn < 0.35:
            yield at, canonical
        elif drawn < 0.8:
            yield at, mutated(known[at]["prompt"], canonical, chance)
        elif drawn < 0.9:
            lines = canonical.splitlines(keepends=True)
            yield at, "".join(lines[: chance.randrange(len(lines))])
        else:
            yield at, chance.choice(ODD)


def mutated(prompt: str, canonical: str, chance: random.Random) -> str:
    """The canonical solution with one small thing changed."""
    tree = ast.parse(prompt + canonical)
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    places = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Compare | ast.Return)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
    ]
    node = chance.choice(places)
    if isinstance(node, ast.Constant):
        node.value += chance.choice([-1, 1])
    elif isinstance(node, ast.Return):
        node.value = None if chance.random() < 0.5 else ast.List([], ast.Load())
    elif isinstance(node, ast.Compare):
        node.ops[0] = _other(node.ops[0], chance)
    else:
        node.op = _other(node.op, chance)
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    rest = ast.Module(function.body[1 if is_docstring else 0 :] or [ast.Pass()], [])
    text = ast.unparse(ast.fix_missing_locations(rest))
    return textwrap.indent(text, "    ") + "\n"


def _other(op: Any, chance: random.Random) -> Any:
    return chance.choice(_SWAPPED.get(type(op), (type(op),)))()
