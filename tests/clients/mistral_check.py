"""Mistral's client, unchanged: fim.complete and fim.stream."""

from __future__ import annotations

import sys

try:
    from mistralai import Mistral
except ImportError:  # where version 2 and later keep it
    from mistralai.client import Mistral

with Mistral(api_key="x", server_url=f"http://127.0.0.1:{sys.argv[1]}") as client:
    asked = {"model": "codellama-nano", "prompt": "def f(x):\n    return ", "suffix": "\n",
             "temperature": 0, "max_tokens": 8}  # fmt: skip
    whole = client.fim.complete(**asked)
    assert whole.usage.completion_tokens <= 8
    text = ""
    for event in client.fim.stream(**asked):
        text += event.data.choices[0].delta.content
    assert text == whole.choices[0].message.content, (text, whole)
print("mistral: good")
