"""Answers that pass the user's tests: many candidates are drawn, and run in the sandbox."""

from codellama.solve.agreement import most_agreed
from codellama.solve.candidates import Answer, Continuation, Form, Hole
from codellama.solve.search import TEMPERATURES, Draw, Judge, Search, Solved, search

__all__ = [
    "TEMPERATURES", "Answer", "Continuation", "Draw", "Form", "Hole", "Judge", "Search", "Solved",
    "most_agreed", "search",
]  # fmt: skip
