"""The model card's chat program, with this package: one system turn, one question, greedy.

python examples/chat.py [MODEL]
"""

from __future__ import annotations

import sys

from codellama import LLM, SamplingParams

MESSAGES = [
    {"role": "system", "content": "You write short Python functions."},
    {"role": "user", "content": "Write a function that returns the sum of a list of numbers."},
]


def main(model: str = "nano") -> list[int]:
    llm = LLM.load(model)
    reply = llm.chat(MESSAGES, SamplingParams(temperature=0.0, max_tokens=100))
    print(reply.text)
    return list(reply.token_ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
