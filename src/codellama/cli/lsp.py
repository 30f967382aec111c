"""`codellama lsp`: a language server for editors, on standard input and output."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

from codellama.cli.version import package_version
from codellama.errors import MissingExtra


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama lsp [options]"
    parser.description = (
        "Suggest code in an editor, which starts this command and speaks to it over standard\n"
        "input and output. Without --url it starts a server of its own, and ends it with itself.\n"
        "An editor's own settings go before these; docs/editors.md has them."
    )
    add = parser.add_argument
    add("--url", metavar="U", help="ask the server there, such as http://127.0.0.1:8012; its key "
        "comes from CODELLAMA_API_KEY")  # fmt: skip
    add("--model", metavar="M", help="the model that a server of its own serves (default: nano)")
    add("--tokenizer", metavar="M", help="count tokens here, with this model's vocabulary "
        "(default: ask the server at --url)")  # fmt: skip
    add("--context-tokens", type=int, metavar="N", help="tokens of a prompt (default: 1024)")
    add("--max-tokens", type=int, metavar="N", help="tokens of a suggestion (default: 128)")
    add("--candidates", type=int, metavar="N", help="suggestions to choose from where they are "
        "asked for (default: 3)")  # fmt: skip
    add("--debounce-ms", type=int, metavar="N", help="wait so long after a key (default: 25)")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="warning",
        help="of what is written to standard error (default: warning)")  # fmt: skip


_FLAGS = ("url", "model", "tokenizer", "context_tokens", "max_tokens", "candidates", "debounce_ms")


def run(args: Namespace) -> int:
    import logging
    import sys

    from codellama.lsp.languages import PYTHON
    from codellama.lsp.settings import Settings

    settings = Settings().changed({name: getattr(args, name) for name in _FLAGS})
    PYTHON.grammar()  # says so where the extra is missing
    try:
        from codellama.lsp.server import make_server
    except ModuleNotFoundError as error:
        raise MissingExtra("codellama lsp", "lsp") from error
    logging.basicConfig(
        stream=sys.stderr, level=args.log_level.upper(), format="%(levelname)s %(name)s %(message)s"
    )
    server = make_server(settings, os.environ.get("CODELLAMA_API_KEY") or None, package_version())
    # The protocol has standard output for itself; what else is printed must not get between.
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") as come, os.fdopen(os.dup(1), "wb") as go:
        os.dup2(2, 1)
        server.start_io(come, go)
    return 0
