"""`codellama solve`: write code until it passes the tests."""

from __future__ import annotations

import dataclasses
import json
import os
import sysconfig
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.cli import loading, terminal
from codellama.cli.sizes import counted
from codellama.cli.source import FILL_ME, Hole, SourceFile, check_text, hole_in_text
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.cli.values import above_zero, position
from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama.sandbox import Sandbox, Verdict
    from codellama.solve import Judge, Search, Solved


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = (
        "codellama solve --tests test_x.py FILE [--at LINE[:COL]] [options]\n"
        '       codellama solve --tests test_x.py "TASK" [--as NAME.py] [options]\n'
        "       codellama solve FILE | TASK [options]        (without tests: unverified)"
    )
    parser.description = (
        "Draw answers until one passes your tests. Each is run in a sandbox; the first that\n"
        "passes is shown as a diff. A FILE is filled at its hole, a TASK is asked in the chat.\n\n"
        "Without --tests, the answer that most others agree with is shown, as unverified.\n"
        "Exit code 1 means that none passed, and 3 that this machine cannot isolate programs."
    )
    add = parser.add_argument
    add("what", metavar="FILE | TASK", help="a Python file with a hole, or what is to be written")
    add("--tests", metavar="PATH", type=Path, action="append", default=[],
        help="a file of tests for pytest; may be given several times")  # fmt: skip
    add("--at", type=position, metavar="LINE[:COL]", help="where FILE has its hole, counted from "
        f"1; without this, one {FILL_ME} in FILE marks it")  # fmt: skip
    add("--as", dest="name", metavar="NAME.py", help="the file that the answer to TASK becomes "
        "(default: the module that the tests miss)")  # fmt: skip
    add("--together", action="store_true", help="run the answer and its tests in one process: for "
        "tests that patch or subclass it; an answer that sets out to cheat then could")  # fmt: skip
    add("--write", action="store_true", help="put the answer into its file, if it passed")
    add("--json", action="store_true", help="one JSON object with the answer and what was counted")
    terminal.add_arguments(parser)
    loading.add_arguments(parser)
    group = parser.add_argument_group("search")
    add = group.add_argument
    add("--n", type=above_zero, default=50, metavar="N", help="answers to draw, at most "
        "(default: 50)")  # fmt: skip
    add("--max-tokens", type=above_zero, default=512, metavar="N", help="tokens of an answer "
        "(default: 512)")  # fmt: skip
    add("--seed", type=int, help="repeats a search; without it one is drawn and shown")
    add("--timeout", type=float, default=15, metavar="SECONDS", help="for one run of the tests "
        "(default: 15)")  # fmt: skip


def run(args: Namespace) -> int:
    from codellama.engine.params import SamplingParams
    from codellama.engine.solving import solve
    from codellama.sandbox import Limits, Sandbox

    _check(args)
    console = Console.open(args)
    is_file = Path(args.what).is_file()
    file = SourceFile.read(Path(args.what)) if is_file else None
    hole = None if file is None else _hole(file, args)
    target = Path(args.what) if is_file else _target(args)
    if args.write and file is not None:
        file.require_writable()
    limits = Limits(wall_s=args.timeout, cpu_s=args.timeout)
    with Sandbox.open(limits=limits, packages=_packages() if args.tests else ()) as box:
        judge = _judge(box, args, target, file) if args.tests else None
        seed = int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed
        params = SamplingParams(max_tokens=args.max_tokens, seed=seed)
        llm = loading.load(_for_loading(args), params, console)
        found = solve(
            llm,
            None if hole is not None else check_text(args.what, "the task"),
            prefix=None if hole is None else hole.model_prefix,
            suffix=None if hole is None else hole.model_suffix,
            tests=judge,
            n=args.n,
            params=params,
            box=box,
            told=lambda state: console.say(_progress(state, args.n)),
        )
    return _show(found, args, console, target, file, hole)


def _show(
    found: Solved,
    args: Namespace,
    console: Console,
    target: Path,
    file: SourceFile | None,
    hole: Hole | None,
) -> int:
    from codellama.solve.search import diff

    counts = (
        f"{counted(found.n_tried, 'answer')} tried of {found.n_drawn} drawn "
        f"({found.n_unparsable} no Python, {found.n_same} repeated)"
    )
    if args.json:
        console.write(json.dumps(dataclasses.asdict(found)) + "\n")
    if found.source is None:
        console.warn(f"none passed: {counts}; the last one: {found.reason}")
        return 1
    if not args.json:
        before = "" if hole is None else _as_it_stands(hole)
        console.write(diff(before, found.source, str(target)))
    if not found.verified:
        console.warn(f"{found.reason}; {counts}")
        return 0
    console.say(f"passed: {found.reason}; {counts}")
    if args.write:
        if file is None or hole is None:
            with target.open("x") as made:
                made.write(found.source)
        else:
            end = len(found.source) - len(hole.model_suffix)
            file.replace(hole.filled(found.source[len(hole.model_prefix) : end]))
        console.say(f"wrote {target}")
    return 0


def _check(args: Namespace) -> None:
    """Raises UsageError when the arguments do not name a file with a hole, or a task."""
    path = Path(args.what)
    if args.write and not args.tests:
        raise UsageError("--write needs --tests: an unverified answer is not written")
    if path.is_file():
        if args.name is not None:
            raise UsageError("--as names the file for a TASK; leave it out with FILE")
        return
    if args.at is not None or (path.suffix == ".py" and " " not in args.what):
        raise UsageError(f"there is no file {args.what}")
    if not args.what.strip():
        raise UsageError("the task is empty")


def _as_it_stands(hole: Hole) -> str:
    """The file before; a mark for the hole is no part of what the answer is compared with."""
    return hole.model_prefix + hole.model_suffix


def _hole(file: SourceFile, args: Namespace) -> Hole:
    if args.at is not None:
        return file.hole_at(*args.at)
    return hole_in_text(file.text, str(file.path))


def _target(args: Namespace) -> Path:
    """The file that the answer to a task becomes."""
    from codellama.solve.project import module_asked_for

    if args.name is not None:
        if not args.name.endswith(".py"):
            raise UsageError(f"--as {args.name}: a Python file is called something.py")
        return Path(args.name)
    if not args.tests:
        return Path("solution.py")
    for path in args.tests:
        SourceFile.read(path)
    module = module_asked_for(args.tests, Path.cwd())
    if module is None:
        raise UsageError("the tests do not say which file is missing; name it with --as NAME.py")
    folder: Path = args.tests[0].parent
    return folder / (module.replace(".", "/") + ".py")


def _judge(box: Sandbox, args: Namespace, target: Path, file: SourceFile | None) -> Judge:
    """Runs pytest over the project with a candidate in its place."""
    from codellama.solve.project import project_files

    root = Path.cwd()
    needed = [*args.tests, *([] if file is None else [target])]
    files = project_files(root, needed)
    tests = [path.resolve().relative_to(root.resolve()).as_posix() for path in args.tests]
    place = target.resolve()
    if not place.is_relative_to(root.resolve()):
        raise RequestError(f"{target} is not below {root}", hint="run this in the project's root")
    name = place.relative_to(root.resolve()).as_posix()

    def judge(source: str) -> Verdict:
        return box.run_pytest(
            files | {name: source.encode()}, tests, candidate=name, together=args.together
        )

    return judge


def _packages() -> list[str]:
    """Where pytest, and what the tests import, is installed."""
    found = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(path for path in found if Path(path).is_dir())


def _for_loading(args: Namespace) -> Namespace:
    return Namespace(**{**vars(args), "n": 16})


def _progress(state: Search, n: int) -> str:
    return f"{state.n_drawn} of {n} drawn, {state.n_tried} tried, none passed yet"
