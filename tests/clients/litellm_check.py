"""LiteLLM's four ways to ask, unchanged."""

from __future__ import annotations

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would look on the network otherwise

import litellm

base = f"http://127.0.0.1:{sys.argv[1]}"
messages = [{"role": "user", "content": "Write a function that adds two numbers."}]
few = {"max_tokens": 8, "temperature": 0}

found = litellm.completion("openai/codellama-nano", messages, api_base=f"{base}/v1", api_key="x",
                           **few)  # fmt: skip
assert found.choices[0].message.content, found
assert found.usage.completion_tokens == 8, found.usage
parts = litellm.completion("openai/codellama-nano", messages, api_base=f"{base}/v1", api_key="x",
                           stream=True, **few)  # fmt: skip
text = "".join(part.choices[0].delta.content or "" for part in parts)
assert text == found.choices[0].message.content, text

hole = litellm.text_completion(
    model="text-completion-openai/codellama-nano", prompt="def f(x):\n    return ", suffix="\n",
    api_base=f"{base}/v1", api_key="x", **few,
)  # fmt: skip
assert hole.choices[0].text is not None
assert hole.usage.prompt_tokens > 8

for name in ("ollama/codellama-nano", "ollama_chat/codellama-nano"):
    found = litellm.completion(name, messages, api_base=base, **few)
    assert found.choices[0].message.content, name
try:
    litellm.completion("openai/codellama-nano", messages, api_base=f"{base}/v1", api_key="x",
                       max_tokens=100_000)  # fmt: skip
except litellm.BadRequestError:
    print("litellm: good")
else:
    raise SystemExit("a request that cannot be served was not refused")
