"""The model card's text generation program, with this package: temperature 0.2, top-p 0.9.

python examples/generate.py [MODEL] [TEMPERATURE]
"""

from __future__ import annotations

import sys

from codellama import LLM, SamplingParams

PROMPT = "import socket\n\ndef ping_exponential_backoff(host: str):"


def main(model: str = "nano", temperature: str = "0.2") -> list[int]:
    llm = LLM.load(model)
    params = SamplingParams(temperature=float(temperature), top_p=0.9, max_tokens=100, seed=1)
    result = llm.complete(PROMPT, params)
    print(PROMPT + result.text)
    return list(result.token_ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
