"""Conversations for the instruct stage."""

from __future__ import annotations

import ast

from codellama.train.conversations import HandWritten, make_conversations
from codellama.train.corpus import Document, functions
from train_corpus import RECIPES, module

WRITTEN = HandWritten.read(RECIPES / "corpus" / "chat.toml")
FUNCTIONS = [
    function
    for i in range(20)
    for function in functions(Document("p", f"m{i}.py", "train", "python", module(i)))
]


def test_hand_written_code_parses() -> None:
    for problem in WRITTEN.problem:
        ast.parse(problem.code)


def test_the_same_seed_gives_the_same_conversations() -> None:
    first = make_conversations(FUNCTIONS, WRITTEN, 100, 3)
    assert first == make_conversations(FUNCTIONS, WRITTEN, 100, 3)
    assert first != make_conversations(FUNCTIONS, WRITTEN, 100, 4)


def test_roles_alternate_and_code_in_answers_parses() -> None:
    talks = make_conversations(FUNCTIONS, WRITTEN, 300, 3)
    assert len(talks) == 300
    for talk in talks:
        roles = [m["role"] for m in talk]
        assert roles in (["user", "assistant"], ["system", "user", "assistant"])
        question, answer = talk[-2]["content"], talk[-1]["content"]
        if "```python\n" in answer and "docstring" not in question and "Document" not in question:
            ast.parse(answer.split("```python\n")[1].split("```")[0])
