"""The model card's chat program, with `transformers`, on a directory this package wrote.

codellama convert nano nano-hf && python examples/chat_transformers.py nano-hf
"""

from __future__ import annotations

import sys

from chat import MESSAGES
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    inputs = tokenizer.apply_chat_template(MESSAGES, return_tensors="pt", return_dict=True)
    output = network.generate(**inputs, max_new_tokens=100, do_sample=False)
    reply = output[0, inputs["input_ids"].shape[1] :]
    print(tokenizer.decode(reply, skip_special_tokens=True))
    return [int(token) for token in reply]


if __name__ == "__main__":
    main(*sys.argv[1:])
