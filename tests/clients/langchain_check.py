"""LangChain's OpenAI classes, unchanged: a batch of 25 keeps its order."""

from __future__ import annotations

import sys

from langchain_openai import ChatOpenAI, OpenAI

base = f"http://127.0.0.1:{sys.argv[1]}/v1"
model = OpenAI(base_url=base, api_key="x", model="codellama-nano", max_tokens=6, temperature=0,
               batch_size=16)  # fmt: skip
prompts = [f"def function_{i}(" for i in range(25)]
together = [one[0].text for one in model.generate(prompts).generations]
assert together == [model.invoke(prompt) for prompt in prompts], "the order changed"
assert "".join(model.stream(prompts[0])) == together[0]

chat = ChatOpenAI(base_url=base, api_key="x", model="codellama-nano", max_tokens=6, temperature=0)
answer = chat.invoke("Write a function.")
assert answer.content
assert answer.usage_metadata["output_tokens"] == 6
assert "".join(part.content for part in chat.stream("Write a function.")) == answer.content
print("langchain: good")
