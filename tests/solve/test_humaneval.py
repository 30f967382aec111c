"""On HumanEval, with a model that is right once in fifty tries."""

from __future__ import annotations

import ast
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from codellama.sandbox import Sandbox
from codellama.solve import Continuation, search

DATA = Path(__file__).parents[3] / "shared" / "data" / "eval" / "HumanEval.jsonl.gz"
N = 100


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    with gzip.open(DATA, "rt") as file:
        return [json.loads(line) for line in file]


def helpers(problem: dict[str, Any]) -> str:
    """What the prompt defines besides the function that is asked for."""
    tree = ast.parse(problem["prompt"] + "    pass\n")
    rest = [
        node
        for node in tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name == problem["entry_point"])
    ]
    return "\n".join(ast.unparse(node) for node in rest)


class Model:
    """Draws wrong bodies of many kinds and, once in fifty, the right one, if it has that at all."""

    def __init__(self, right: str, seed: int, *, knows: bool) -> None:
        self.chance = random.Random(seed)
        self.right = right
        self.knows = knows

    def __call__(self, temperature: float, n: int, first: int) -> list[str]:
        return [self.one() for _ in range(n)]

    def one(self) -> str:
        if self.knows and self.chance.random() < 1 / 50:
            return self.right + "\n\ndef another():\n    pass\n"
        number = self.chance.randrange(-3, 4)
        return self.chance.choice(
            [
                f"    return {number}\n",
                "    return None\n",
                "    return not True\n",
                "    return [][:]\n",
                "    return ((\n",
                "no code at all",
                f"    raise ValueError({number})\n",
                "    import os\n    os._exit(0)\n",
                "    import sys\n    sys.exit(0)\n",
                f"    x = {number}\n    return str(x)\n",
            ]
        )


def solve_and_look(box: Sandbox, problem: dict[str, Any], seed: int, *, knows: bool) -> bool:
    """Whether it was solved; fails when what came back is not right."""
    tests = f"{helpers(problem)}\n{problem['test']}"
    model = Model(problem["canonical_solution"], seed, knows=knows)
    found = search(
        model,
        lambda source: box.check(source, tests, problem["entry_point"]),
        Continuation(problem["prompt"]),
        n=N,
        n_workers=2,
    )
    assert found.n_drawn <= N
    if found.source is None:
        assert not found.verified
        return False
    assert found.verified
    assert problem["canonical_solution"].rstrip() in found.source  # only that one is right
    assert "another" not in found.source
    assert found.diff.startswith("--- a/")
    return True


def will_draw(problem: dict[str, Any], seed: int) -> bool:
    """Whether the model draws the right one at all within the search's bounds."""
    return any(
        text.startswith(problem["canonical_solution"])
        for text in Model(problem["canonical_solution"], seed, knows=True)(0.2, N, 0)
    )


@pytest.mark.parametrize("at", [0, 32, 50, 76, 163])
def test_some_problems(box: Sandbox, problems: list[dict[str, Any]], at: int) -> None:
    seed = next(seed for seed in range(1000) if will_draw(problems[at], seed))
    assert solve_and_look(box, problems[at], seed, knows=True)
    assert not solve_and_look(box, problems[at], seed, knows=False)


@pytest.mark.slow
def test_all_problems(box: Sandbox, problems: list[dict[str, Any]]) -> None:
    solvable = [will_draw(problem, seed) for seed, problem in enumerate(problems)]
    assert sum(solvable) > 100
    solved = [
        solve_and_look(box, problem, seed, knows=True) for seed, problem in enumerate(problems)
    ]
    assert solved == solvable
