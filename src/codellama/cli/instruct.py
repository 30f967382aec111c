"""`codellama data instruct|verify`: conversations to train on that a program has verified."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.train.self_instruct import Generator


def add_parsers(verbs: Any) -> None:
    """The two verbs' arguments."""
    instruct = verbs.add_parser(
        "instruct", help="problems, tests and solutions by a model; what passes is kept"
    )
    instruct.add_argument("--out", type=Path, default=Path("build/instruct"), help="folder")
    instruct.add_argument("--problems", type=int, default=1000, help="how many, all different")
    instruct.add_argument("--solutions", type=int, default=10, help="tried for each")
    instruct.add_argument("--temperature", type=float, default=0.8)
    instruct.add_argument("--model", default="nano", help="a model's path, or its name at --url")
    instruct.add_argument(
        "--device", metavar="D", help="of a model's path: cuda for a GPU (default: the CPU)"
    )
    instruct.add_argument("--url", help="an OpenAI-compatible server, such as http://host:8000/v1")
    instruct.add_argument(
        "--propose-with", metavar="MODEL", help="another model for the problems (default: --model)"
    )
    instruct.add_argument("--propose-url", metavar="URL", help="where that one is served")
    instruct.add_argument(
        "--decontaminate",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="JSON files of evaluation problems; problems that share text with them go",
    )
    instruct.add_argument("--seed", type=int, default=7)
    verify = verbs.add_parser(
        "verify", help="conversations about the corpus's functions whose examples come true"
    )
    verify.add_argument("--corpus", type=Path, default=Path("build/corpus"), help="corpus folder")
    verify.add_argument("--out", type=Path, help="folder (default: CORPUS/verified)")
    verify.add_argument("--seed", type=int, default=7)


def run_instruct(args: argparse.Namespace) -> int:
    """Prints the yield as one JSON object."""
    from codellama.sandbox import Sandbox
    from codellama.train.decontaminate import Fingerprints
    from codellama.train.self_instruct import SelfInstruct, self_instruct

    settings = SelfInstruct(
        n_problems=args.problems,
        n_solutions=args.solutions,
        temperature=args.temperature,
        seed=args.seed,
    )
    evaluation = Fingerprints.read(tuple(args.decontaminate))
    with Sandbox.open(n_workers=1) as box:
        solves = _generator(args.model, args.url, args.device)
        proposes = solves
        if args.propose_with is not None:
            proposes = _generator(args.propose_with, args.propose_url, args.device)
        found = self_instruct(
            args.out, settings, proposes, solves, box, evaluation=evaluation, note=_say
        )
    print(json.dumps(found, indent=1))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Prints how many functions ended how, as one JSON object."""
    from codellama.sandbox import Sandbox
    from codellama.train.corpus import read_documents
    from codellama.train.verified import make_verified

    functions = [d for d in read_documents(args.corpus)
                 if (d.split, d.kind) == ("train", "function")]  # fmt: skip
    out: Path = args.out or args.corpus / "verified"
    with Sandbox.open(n_workers=1) as box:
        found = make_verified(functions, out, box, seed=args.seed, note=_say)
    print(json.dumps(dict(found), indent=1))
    return 0


def _generator(model: str, url: str | None, device: str | None) -> Generator:
    if url is not None:
        from codellama.train.remote import RemoteModel

        return RemoteModel(url, model, os.environ.get("OPENAI_API_KEY"))
    from codellama.engine.llm import LLM

    return _Local(LLM.load(model, device=device))


class _Local:
    """A model in this process, as a generator."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def replies(
        self, question: str, *, n: int, temperature: float, max_tokens: int | None, seed: int
    ) -> list[str]:
        from codellama.engine.params import SamplingParams

        params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
        messages = [{"role": "user", "content": question}]
        return [reply.text for reply in self._llm.chat(messages, params, n=n)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
