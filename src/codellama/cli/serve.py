"""`codellama serve`: an HTTP server that editors and other programs talk to."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from codellama.cli import loading, terminal
from codellama.cli.terminal import Console
from codellama.cli.version import package_version
from codellama.errors import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama serve [MODEL ...] [options]"
    parser.description = (
        "Serve models over HTTP, in the manner of OpenAI, llama.cpp, Mistral, Ollama, Tabby and\n"
        "TGI, with a playground for browsers. The first model is the default. Keys come from\n"
        "--key-file or CODELLAMA_API_KEY."
    )
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="*", help="nano, a hub name, or the path of a folder or "
        ".gguf file, with NAME= in front to name it (default: nano)")  # fmt: skip
    add("--config", type=Path, metavar="F", help="read settings from a TOML file; flags go first")
    add("--lora", action="append", metavar="NAME=F", help="serve a LoRA adapter of the first model "
        "beside it by this name; may be given several times")  # fmt: skip
    add("--host", metavar="H", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=int, metavar="N", help="port; 0 takes any that is free (default: 8012)")
    add("--allow-host", action="append", dest="hosts", metavar="H:PORT", help="serve this Host "
        "header too; may be given several times")  # fmt: skip
    add("--allow-origin", action="append", dest="origins", metavar="O", help="let pages of this "
        "origin call; `editors` for editors' web views")  # fmt: skip
    add("--key-file", metavar="F", help="keys that clients may present, one a line, mode 0600")
    add("--insecure-no-auth", action="store_true", default=None, help="listen to other machines "
        "without any key")  # fmt: skip
    add("--public-metrics", action="store_true", default=None, help="show /metrics without a key")
    add("--strict-models", action="store_true", default=None, help="answer 404 to unknown model "
        "names, even where there is one model")  # fmt: skip
    add("--max-seq-len", type=int, metavar="N", help="tokens of context (default: the model's)")
    add("--max-num-seqs", type=int, metavar="N", help="replies computed at a time (default: 32)")
    add("--max-waiting", type=int, metavar="N", help="replies that wait at most (default: 128)")
    add("--step-tokens", type=int, metavar="N", help="tokens of one step: less is smoother, more "
        "reads long prompts faster (default: fits the replies; on a GPU 2048)")  # fmt: skip
    add("--threads", type=int, metavar="N", help="threads of the cpu engine (default: one for each "
        "core)")  # fmt: skip
    add("--speculation", choices=("lookup", "off"), help="guess ahead what the text repeats, where "
        "that is quicker; results are the same (default: lookup)")  # fmt: skip
    add("--draft-model", metavar="M", help="a smaller model of the same vocabulary, to guess the "
        "rest")  # fmt: skip
    add("--infill-order", choices=("auto", "psm", "spm"), help="how holes are told where a request "
        "does not say: prefix first, suffix first, or what the cache makes cheaper (default: "
        "auto)")  # fmt: skip
    add("--tensor-parallel", type=int, metavar="N", help="devices that share each layer (vllm)")
    add("--pipeline-parallel", type=int, metavar="N", help="groups of devices, each with a part of "
        "the layers (vllm)")  # fmt: skip
    add("--replicas", type=int, metavar="N", help="whole engines behind one address, by Ray Serve")
    add("--min-replicas", type=int, metavar="N", help="begin with so many, and start others up to "
        "--replicas as the queue asks for them")  # fmt: skip
    loading.add_engine_arguments(parser, ("cpu", "torch", "vllm"))
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
    terminal.add_arguments(parser)


_FLAGS = ("host", "port", "hosts", "origins", "key_file", "insecure_no_auth", "public_metrics",
          "strict_models", "max_seq_len", "max_num_seqs", "step_tokens", "threads", "kv_cache",
          "speculation", "draft_model", "infill_order", "engine", "device", "weights",
          "tensor_parallel", "pipeline_parallel", "replicas", "min_replicas",
          "log_level")  # fmt: skip


def run(args: Namespace) -> int:
    from codellama.server.settings import Settings, read_keys

    flags: dict[str, Any] = {name: getattr(args, name) for name in _FLAGS}
    if args.models:
        flags["models"] = dict(_named(text) for text in args.models)
    if args.lora:
        flags["adapters"] = dict(_named(text) for text in args.lora)
    settings = Settings.read(args.config, flags, max_waiting=args.max_waiting)
    keys = read_keys(settings, os.environ)
    console = Console.open(args)
    if settings.insecure_no_auth:
        console.say("warning: whoever reaches this address may use it; there is no key")
    if settings.replicas > 1:
        from codellama.cluster.replicas import serve
    elif settings.engine == "vllm":
        from codellama.cluster.vllm import serve
    else:
        from codellama.server.run import serve
    serve(settings, keys, f"codellama-{package_version()}", console.say)
    return 0


def _named(text: str) -> tuple[str, str]:
    """A model's name and path. Editors know by `codellama` in the name how to ask it."""
    name, mark, path = text.partition("=")
    if mark:
        if not name or not path:
            raise ConfigError(f"{text!r} is not NAME=PATH")
        return name, path
    short = Path(text).name.removesuffix(".gguf") or text
    return (short if "codellama" in short.lower() else f"codellama-{short}").lower(), text
