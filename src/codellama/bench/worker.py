"""One engine in a process of its own: a line of JSON in is a piece of work, a line out its result.

    PYTHON worker.py BODY MODEL N_THREADS CONTEXT N_STREAMS OPTIONS

BODY is a Python file with `load(model, n_threads, context, n_streams)`, which takes the OPTIONS, a
JSON object, as keywords and returns an object with the methods of `Body`. This file needs nothing
but the standard library, because it also runs in the environments of other engines, which have
nothing of ours.

A request is {"do": "prefill", "n": 512}, {"do": "decode", "n": 64, "streams": 8}, {"do": "memory"}
or {"do": "limits"}. The answer to work is {"s": seconds}, to "memory" {"rss_mb": now, "peak_mb":
most ever}, and to "limits" what the body says, where it knows its device's.
The first line out, once the model is loaded, is {"about": {...}}. What goes wrong is {"error":
"a sentence"}, and ends the process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol


class Body(Protocol):
    """An engine with a model in it. Work is done on made-up tokens, always the same ones."""

    about: dict[str, Any]

    def prefill(self, n: int) -> object:
        """Reads a prompt of n tokens from an empty cache, up to the logits of its last token."""
        ...

    def decode(self, n: int, n_streams: int) -> object:
        """n steps of n_streams sequences at once from an empty cache, each to its logits."""
        ...


def main(arguments: list[str]) -> None:
    # Python looks for modules beside a script first, and there are modules of ours.
    here = Path(__file__).parent.resolve()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    try:
        path, model = arguments[:2]
        sizes, options = [int(word) for word in arguments[2:5]], json.loads(arguments[5])
        body = _load(Path(path), model, sizes, options)
        answer(about=body.about)
        for line in sys.stdin:
            answer(**_do(body, json.loads(line)))
    except Exception as error:
        hint = getattr(error, "hint", None)
        named = "" if hint is not None or isinstance(error, OSError) else type(error).__name__
        answer(error=f"{named}: {error}".removeprefix(": "), hint=hint)
        sys.exit(1)


def _load(path: Path, model: str, sizes: list[int], options: dict[str, Any]) -> Body:
    spec = importlib.util.spec_from_file_location("body", path)
    assert spec is not None, f"{path} is not a Python file"
    assert spec.loader is not None, f"{path} cannot be loaded"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    body: Body = module.load(model, *sizes, **options)
    return body


def _do(body: Body, request: dict[str, Any]) -> dict[str, float]:
    if request["do"] == "memory":
        return _memory()
    if request["do"] == "limits":
        measure: Any = getattr(body, "limits")  # noqa: B009  # not every body has it
        found: dict[str, float] = measure()
        return found
    start = time.perf_counter()
    if request["do"] == "prefill":
        body.prefill(request["n"])
    else:
        body.decode(request["n"], request["streams"])
    return {"s": time.perf_counter() - start}


def _memory() -> dict[str, float]:
    """Resident memory in MB (10^6 bytes), pages of mapped files included; 0 if not to be known.

    Not `getrusage`, whose maximum begins with what the process had that started this one.
    """
    found = {"rss_mb": 0.0, "peak_mb": 0.0}
    names = {"VmRSS:": "rss_mb", "VmHWM:": "peak_mb"}
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        words = line.split()
        if words and words[0] in names:
            found[names[words[0]]] = int(words[1]) * 1024 / 1e6
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
