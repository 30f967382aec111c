"""No wrong solution is counted as right, whatever it does."""

from __future__ import annotations

import pytest
from forgeries import FORGERIES, ODD_TESTS, PLAIN

from codellama.sandbox import Sandbox

RIGHT = "def f(x): return x + x"


def test_there_are_enough_attempts() -> None:
    assert len(FORGERIES) + len(ODD_TESTS) >= 25


def test_the_tests_let_the_right_solution_pass(box: Sandbox) -> None:
    assert box.check(RIGHT, PLAIN, "f").passed


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_passes(hasty: Sandbox, name: str) -> None:
    verdict = hasty.check(FORGERIES[name], PLAIN, "f")
    assert not verdict.passed
    assert verdict.wall_s < hasty.limits.wall_s + 2


@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_passes_one_assertion(hasty: Sandbox, name: str) -> None:
    """The same where tests name the function, and stop after the first answer."""
    assert not hasty.check(FORGERIES[name], "assert f(2) == 4", None).passed


@pytest.mark.parametrize("name", ODD_TESTS)
def test_tests_that_ask_otherwise(hasty: Sandbox, name: str) -> None:
    solution, tests = ODD_TESTS[name]
    assert not hasty.check(solution, tests, None).passed
    assert not hasty.check(solution, tests, "f").passed


def test_the_forgeries_bite(hasty: Sandbox) -> None:
    """Where a solution and its tests share a process, a good part of them passes."""
    passed = [
        name
        for name, solution in FORGERIES.items()
        if hasty.run(f"{solution}\n{PLAIN}\ncheck(f)").status == "ok"
    ]
    assert len(passed) >= 10, passed


def test_a_reason_says_what_the_candidate_did(hasty: Sandbox) -> None:
    assert "left" in hasty.check(FORGERIES["leaves when called, politely"], PLAIN, "f").reason
    assert "ended" in hasty.check(FORGERIES["leaves when called"], PLAIN, "f").reason
    wrong = hasty.check("def f(x): return 1", PLAIN, "f")
    assert wrong.status == "failed"
    assert "candidate(2) == 4" in wrong.reason


USER_TESTS = b"""
import pytest
from made import Wrong, f

@pytest.mark.parametrize("given, wanted", [(2, 4), ("a", "aa")])
def test_f(given, wanted):
    assert f(given) == wanted

def test_error():
    with pytest.raises(Wrong):
        f(None)
"""
USER_RIGHT = """
class Wrong(ValueError): pass
def f(x):
    if x is None: raise Wrong("none")
    return x + x
"""
USER_FORGERIES = {
    "patches pytest": "import pytest\npytest.raises = lambda *a: 1 / 0\npytest.main = lambda *a: 0",
    "patches the runner": "import sys\nfor m in list(sys.modules.values()):\n"
    "    if 'pytest' in getattr(m, '__name__', ''):\n        vars(m).clear()",
    "skips all": "import pytest\npytest.skip('no', allow_module_level=True)",
    "leaves": "import os\nos._exit(0)",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 0)",
    "writes other tests": "open('test_made.py', 'w').write('def test_f(): pass')",
    "writes settings": "open('conftest.py', 'w').write('collect_ignore = [\"test_made.py\"]')",
    "gives a verdict": 'import os\nos.write(3, b\'{"status": "ok", "reason": "passed"}\')',
}


def test_users_tests_let_the_right_file_pass(with_pytest: Sandbox) -> None:
    files = {"made.py": USER_RIGHT.encode(), "test_made.py": USER_TESTS}
    for together in (False, True):
        verdict = with_pytest.run_pytest(
            files, ["test_made.py"], candidate="made.py", together=together
        )
        assert verdict.passed, verdict
        assert verdict.reason == "3 tests passed"


def test_a_star_brings_nothing_that_is_pythons(with_pytest: Sandbox) -> None:
    source = b"sorted = lambda x: x\nclass math:\n    pi = 3\ndef f(x): return x\n"
    tests = (
        b"import math\nfrom made import *\n\n"
        b"def test_f():\n    assert f([1, 2]) == sorted([2, 1])\n    assert math.pi > 3\n"
    )
    files = {"made.py": source, "test_made.py": tests}
    assert with_pytest.run_pytest(files, ["test_made.py"], candidate="made.py").passed
    wrong = {**files, "made.py": source.replace(b"return x\n", b"return x[::-1]\n")}
    assert not with_pytest.run_pytest(wrong, ["test_made.py"], candidate="made.py").passed


@pytest.mark.parametrize("name", USER_FORGERIES)
def test_no_file_passes_users_tests_by_deceit(with_pytest: Sandbox, name: str) -> None:
    source = f"{USER_FORGERIES[name]}\nclass Wrong(ValueError): pass\ndef f(x): return 1\n"
    files = {"made.py": source.encode(), "test_made.py": USER_TESTS}
    assert not with_pytest.run_pytest(files, ["test_made.py"], candidate="made.py").passed
