"""What programs can do in the sandbox, how their endings are told, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import ConfigError, SandboxError
from codellama.sandbox import Limits, Sandbox, SandboxUnavailable, kernel, landlock, selftest
from codellama.sandbox.launching import Launching, Refused


def test_a_program_with_input_files_and_output(box: Sandbox) -> None:
    ran = box.run(
        "import sys, pathlib\nprint(input(), pathlib.Path('a/b.txt').read_text(), sys.argv)\n"
        "print('é', file=sys.stderr)\npathlib.Path('made').write_text('x')",
        stdin="hello ☃\nmore",
        files={"a/b.txt": b"text"},
    )
    assert (ran.status, ran.exit_code) == ("ok", 0)
    assert ran.stdout == "hello ☃ text ['program.py']\n"
    assert ran.stderr == "é\n"
    assert 0 < ran.cpu_s < ran.wall_s


def test_runs_do_not_see_each_other(box: Sandbox) -> None:
    assert box.run("open('mark', 'w').write('x'); import math; math.pi = 3").status == "ok"
    ran = box.run("import os, math\nprint(os.listdir('.'), os.listdir('/tmp'), math.pi)")
    assert ran.stdout == "[] ['work'] 3.141592653589793\n"


@pytest.mark.parametrize(
    ("program", "status", "code"),
    [
        ("pass", "ok", 0),
        ("raise SystemExit(3)", "error", 3),
        ("exit('no')", "error", 1),
        ("1 / 0", "error", 1),
        ("this is no python", "error", 1),
        ("x = bytearray(1 << 30)", "memory", 1),
        ("import os; os.abort()", "killed", -signal.SIGABRT),
        ("import ctypes; ctypes.string_at(0)", "killed", -signal.SIGSEGV),
        ("import os; os.kill(os.getpid(), 15)", "killed", -signal.SIGTERM),
        ("import threading; t = threading.Thread(target=print, args=('x',)); t.start()", "ok", 0),
        ("import atexit; atexit.register(print, 'bye')", "ok", 0),
        ("'\ud800'", "error", 1),
        ("\0", "error", 1),
    ],
)
def test_endings(box: Sandbox, program: str, status: str, code: int) -> None:
    ran = box.run(program)
    assert (ran.status, ran.exit_code) == (status, code), ran


def test_a_traceback_shows_the_program_only(box: Sandbox) -> None:
    ran = box.run("def f():\n    1 / 0\nf()")
    assert ran.stderr.splitlines()[1] == '  File "program.py", line 3, in <module>'
    assert "sandbox" not in ran.stderr


def test_all_of_the_standard_library_is_there(box: Sandbox) -> None:
    ran = box.run(
        "import csv, sqlite3, decimal, zlib, lzma, bz2, hashlib, uuid, email.message, asyncio\n"
        "import concurrent.futures, unittest.mock, tempfile, shutil, secrets, xml.dom.minidom\n"
        "print(sqlite3.connect(':memory:').execute('select 1').fetchone(), "
        "len(secrets.token_bytes(4)), tempfile.mkdtemp()[:5])"
    )
    assert ran.stdout == "(1,) 4 /tmp/\n", ran.stderr


def test_more_processes_where_they_are_asked_for() -> None:
    limits = Limits(processes=4, cpu_s=3, wall_s=20)
    try:
        opened = Sandbox.open(limits=limits, n_workers=1)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with opened as many:
        if many.level == "reduced":
            pytest.skip("without namespaces there is one process")
        ran = many.run(
            "import subprocess, sys\n"
            "print(subprocess.run([sys.executable, '-S', '-c', 'print(6 * 7)'], "
            "capture_output=True, text=True).stdout)"
        )
        assert ran.stdout == "42\n\n", ran.stderr
        shell = many.run("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])")
        assert shell.status == "error"
        bomb = many.run("import os\nwhile True: os.fork()")
        assert bomb.status in ("error", "timeout", "killed")


def test_what_is_too_large_is_refused(box: Sandbox) -> None:
    big = "#" * (box.limits.program_bytes + 1)
    assert box.run(big).status == "refused"
    assert box.check(big, "", None).status == "refused"
    assert box.check("", big, None).status == "refused"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a\0b"])
def test_names_of_files_stay_below(box: Sandbox, name: str) -> None:
    with pytest.raises(ConfigError):
        box.run("pass", files={name: b""})


@pytest.mark.parametrize(
    "wrong", [{"cpu_s": 0}, {"wall_s": -1}, {"memory_bytes": 1 << 20}, {"files": 0}]
)
def test_limits_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_no_workers() -> None:
    with pytest.raises(ConfigError):
        Sandbox.open(n_workers=0)


def test_many_at_a_time_in_order(box: Sandbox) -> None:
    checks = [(f"def f(): return {i % 3}", "assert f() == 1", None) for i in range(12)]
    verdicts = list(box.check_many(iter(checks)))
    assert [v.passed for v in verdicts] == [i % 3 == 1 for i in range(12)]


def test_leaving_many_early(box: Sandbox) -> None:
    taken = []

    def checks() -> Any:
        for i in range(100):
            taken.append(i)
            yield "def f(): return 1", "assert f() == 1", None

    found = box.check_many(checks())
    assert next(found).passed
    found.close()  # type: ignore[attr-defined]
    assert len(taken) < 20


def test_threads_share_one(box: Sandbox) -> None:
    found: dict[int, str] = {}

    def work(i: int) -> None:
        found[i] = box.run(f"print({i})").stdout

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"{i}\n" for i in range(8)}


def test_it_outlives_the_thread_that_opened_it(box: Sandbox) -> None:
    opened: list[Sandbox] = []
    thread = threading.Thread(target=lambda: opened.append(Sandbox.open(n_workers=1)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with opened[0] as found:
        assert found.run("print(1)").stdout == "1\n"


def test_closing_ends_what_runs() -> None:
    try:
        opened = Sandbox.open(limits=Limits(cpu_s=60, wall_s=60), n_workers=1)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    ended: list[BaseException] = []

    def work() -> None:
        try:
            opened.run("import time; time.sleep(50)")
        except SandboxError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    opened.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1
    with pytest.raises(SandboxError):
        opened.run("pass")


def test_nothing_is_left_when_its_owner_is_killed() -> None:
    """The kernel ends launcher and programs with the process that opened the sandbox."""
    code = (
        "import sys, os\nfrom codellama.sandbox import Sandbox, Limits, SandboxUnavailable\n"
        "try: box = Sandbox.open(limits=Limits(cpu_s=60, wall_s=60), n_workers=1)\n"
        "except SandboxUnavailable: sys.exit(3)\n"
        "print(box._launching._process.pid, flush=True)\nbox.run('import time; time.sleep(50)')"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    line = owner.stdout.readline()
    if not line:
        owner.wait()
        pytest.skip("programs cannot be isolated here")
    launcher = int(line)
    time.sleep(0.5)
    command = Path(f"/proc/{launcher}/cmdline").read_bytes()
    owner.kill()
    owner.wait()
    owner.stdout.close()

    def left() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cmdline").read_bytes() == command:
                    found.append(entry.name)
            except OSError:
                continue
        return found

    until = time.monotonic() + 5
    while left() and time.monotonic() < until:
        time.sleep(0.05)
    assert left() == []


def test_a_leak_means_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "leaks", lambda box: ("reads a file of the machine",))
    with pytest.raises(SandboxUnavailable) as caught:
        Sandbox.open(n_workers=1)
    assert "reads a file of the machine" in str(caught.value)


def test_the_self_test_sees_a_missing_layer(box: Sandbox) -> None:
    """Each layer that the twelve attempts lean on is missed when it alone is left out."""
    for layer, seen in (("seccomp", "makes a namespace"), ("rlimits", "takes more memory"),
                        ("environment", "sees the environment"),
                        ("descriptors", "has inherited descriptors")):  # fmt: skip
        os.environ["CODELLAMA_PROBE"] = "x"
        with Sandbox._open(box.limits, 1, (), (box.level,), frozenset({layer})) as weak:
            found = selftest.leaks(weak)
        assert any(seen in leak for leak in found), (layer, found)


def test_a_program_that_cannot_be_lowered_is_an_error(box: Sandbox) -> None:
    """Not a program that ended well and wrote nothing."""
    job = box._job("program", "print(1)")
    job["limits"]["open_files"] = "many"
    with pytest.raises(SandboxError, match="could not start"):
        box._launching.start(job).report()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Launching:
        raise Refused("unshare: Operation not permitted")

    monkeypatch.setattr("codellama.sandbox.box.Launching", refuse)
    monkeypatch.setattr(landlock, "version", lambda: 3)
    with pytest.raises(SandboxUnavailable) as caught:
        Sandbox.open(n_workers=1)
    assert caught.value.missing == (
        "full isolation: unshare: Operation not permitted",
        "without namespaces: Landlock 3 of 4 needed",
    )
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(SandboxUnavailable, match="Landlock in the kernel"):
        Sandbox.open(n_workers=1)
    monkeypatch.setattr(kernel, "MACHINE", "mips")
    with pytest.raises(SandboxUnavailable, match="x86_64 or aarch64"):
        Sandbox.open(n_workers=1)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="Linux"):
        Sandbox.open(n_workers=1)


def test_the_reduced_level() -> None:
    """Without namespaces: everything is refused that cannot be bounded otherwise."""
    try:
        opened = Sandbox._open(Limits(cpu_s=2, wall_s=20), 1, (), ("reduced",), frozenset())
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with opened as box:
        assert box.level == "reduced"
        assert box.run("print(1)").stdout == "1\n"
        assert box.run("open('x', 'w')").status == "error"
        assert box.run("import os; os.kill(1, 0)").status == "error"
        assert box.check("def f(x): return x", "assert f(1) == 1", None).passed
