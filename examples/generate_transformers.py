"""The model card's text generation program, with `transformers`, on a directory we wrote.

codellama convert nano nano-hf && python examples/generate_transformers.py nano-hf
"""

from __future__ import annotations

import sys

import torch
from generate import PROMPT
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: str, temperature: str = "0.2") -> list[int]:
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    inputs = tokenizer(PROMPT, return_tensors="pt")
    if float(temperature) > 0:
        sampling = {"do_sample": True, "temperature": float(temperature), "top_p": 0.9}
    else:
        sampling = {"do_sample": False}
    output = network.generate(**inputs, max_new_tokens=100, **sampling)
    print(tokenizer.decode(output[0], skip_special_tokens=True))
    return [int(token) for token in output[0, inputs["input_ids"].shape[1] :]]


if __name__ == "__main__":
    main(*sys.argv[1:])
