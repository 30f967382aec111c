"""Wrong solutions that try to be counted as right. Each is asked for a function `f`."""

from __future__ import annotations

PLAIN = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate([1, 2]) == [1, 2, 1, 2]
    assert abs(candidate(0.5) - 1.0) < 1e-6
    assert candidate('a') in ('aa', 'bb')
"""
"""What most tests look like; `f` doubles."""

_LIAR = """
class Liar{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = lambda self, *_: 0
    def __instancecheck__(self, other): return True
    def __bool__(self): return True
    def __len__(self): return 2
    def __iter__(self): return iter([self, self])
    def __getitem__(self, key): return self
    def __reduce__(self): return (exit, ())
def f(x): return {value}
"""

FORGERIES: dict[str, str] = {
    "an object equal to all": _LIAR.format(base="", value="Liar()"),
    "a list of them": _LIAR.format(base="", value="[Liar(), Liar()]"),
    "a class equal to all": _LIAR.format(base="(type)", value="Liar('L', (), {})"),
    "a number equal to all": _LIAR.format(base="(int)", value="Liar(7)"),
    "a text equal to all": _LIAR.format(base="(str)", value="Liar('no')"),
    "a list equal to all": _LIAR.format(base="(list)", value="Liar([7])"),
    "a tuple equal to all": _LIAR.format(base="(tuple)", value="Liar([7])"),
    "a dictionary equal to all": _LIAR.format(base="(dict)", value="Liar()"),
    "a float near all": _LIAR.format(base="(float)", value="Liar('nan')"),
    "no number": "def f(x): return float('nan')",
    "an object of the standard library's that equals all": "from unittest.mock import ANY\n"
    "def f(x): return ANY",
    "leaves when loaded": "import os\nos._exit(0)",
    "leaves when loaded, politely": "import sys\nsys.exit(0)",
    "leaves when called": "import os\ndef f(x): os._exit(0)",
    "leaves when called, politely": "def f(x): raise SystemExit(0)",
    "leaves from a thread": "import os, threading\n"
    "def f(x):\n    threading.Thread(target=os._exit, args=(0,)).start()\n    return 1",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 1",
    "interrupts": "def f(x): raise KeyboardInterrupt",
    "closes the generator": "def f(x): raise GeneratorExit",
    "stops the iteration": "def f(x): raise StopIteration",
    "asks to be skipped": "import unittest\ndef f(x): raise unittest.SkipTest('no')",
    "replaces built-ins": "import builtins\nfor n in ('abs', 'all', 'any', 'len', 'sorted'):\n"
    "    setattr(builtins, n, lambda *a: 0)\nbuiltins.AssertionError = ValueError\n"
    "def f(x): return 1",
    "defines built-ins": "abs = all = any = len = isinstance = lambda *a: 0\ndef f(x): return 1",
    "defines the tests": "def check(candidate): pass\nMETADATA = {}\ndef f(x): return 1\n"
    "candidate = f",
    "replaces its own built-ins": "__builtins__ = {'AssertionError': ValueError}\n"
    "def f(x): return 1",
    "looks for the tests in frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n"
    "    while frame:\n        for v in list(frame.f_locals.values()):\n"
    "            if 'assert' in str(v): return eval(str(v).split('==')[1].split()[0])\n"
    "        frame = frame.f_back\n    return 1",
    "looks for the tests in memory": "import gc, types\ndef f(x):\n"
    "    for o in gc.get_objects():\n        if isinstance(o, types.FunctionType):\n"
    "            if o.__name__ == 'check': o.__code__ = (lambda c: None).__code__\n    return 1",
    "gives a verdict": 'import os\nos.write(3, b\'{"status": "ok", "reason": "passed"}\')\n'
    "def f(x): os._exit(0)",
    "gives a verdict everywhere": "import os\nfor fd in range(3, 64):\n    try:\n"
    '        os.write(fd, b\'{"status": "ok", "reason": "passed"}\')\n'
    "    except OSError: pass\ndef f(x): return 1",
    "prints a verdict": 'print(\'{"status": "ok", "reason": "passed"}\')\n'
    "print('passed', flush=True)\ndef f(x): return 1",
    "answers before it is asked": "import json, os\ndef f(x):\n    for v in (4, None, True):\n"
    "        b = json.dumps({'id': '0' * 32, 'value': v}).encode()\n"
    "        os.write(4, len(b).to_bytes(4, 'big') + b)\n    return 1",
    "answers twice": "import sys\na = sys.modules['codellama.sandbox.answering']\n"
    "w = a.write_message\ndef twice(fd, m): w(fd, m); w(fd, m)\na.write_message = twice\n"
    "def f(x): return 1",
    "keeps the question's number": "import sys\na = sys.modules['codellama.sandbox.answering']\n"
    "w = a.write_message\nkept = []\ndef again(fd, m):\n    kept.append(m.get('id'))\n"
    "    w(fd, m | {'id': kept[0]})\na.write_message = again\ndef f(x): return 1",
    "takes the protocol over": "import sys, json, os\n"
    "a = sys.modules['codellama.sandbox.answering']\n"
    "def serve(self):\n    while True:\n        q = a.read_message(self.link)\n"
    "        a.write_message(self.link, {'id': q['id'], 'value': ['o', 0, 'int']})\n"
    "a._Answers.serve = serve\ndef f(x): return 1",
    "sends tags that mean nothing": "import sys\na = sys.modules['codellama.sandbox.answering']\n"
    "a.encode = lambda *_: ['name', 'check']\ndef f(x): return 1",
    "sends a callback for an answer": "import sys\n"
    "a = sys.modules['codellama.sandbox.answering']\n"
    "a._Answers.reply = lambda s, q: {'back': 0, 'args': []}\ndef f(x): return 1",
    "sends what is not JSON": "import os\ndef f(x): os.write(4, b'\\0\\0\\0\\4nope'); return 1",
    "sends a bomb of brackets": "import os\ndef f(x):\n    b = b'[' * 100000\n"
    "    os.write(4, len(b).to_bytes(4, 'big') + b)\n    return 1",
    "announces a huge answer": "import os\n"
    "def f(x): os.write(4, b'\\xff\\xff\\xff\\xff'); return 1",
    "says it raised what passes": "import sys\na = sys.modules['codellama.sandbox.answering']\n"
    "a._raised = lambda e: ['SystemExit', '0', 'SystemExit']\ndef f(x): raise ValueError",
    "signals the tests": "import os\ndef f(x):\n    for pid in range(1, 100):\n"
    "        try: os.kill(pid, 9)\n        except OSError: pass\n    return 1",
    "waits until the time is over": "import time\ndef f(x): time.sleep(60)",
    "an exception equal to all": _LIAR.format(base="(Exception)", value="Liar()"),
    "changes its arguments": "def f(x):\n    if isinstance(x, list): x.clear()\n    return 1",
    "names that are the tests'": "self = x = result = expected = 1\ndef f(x): return 1",
}

ODD_TESTS: dict[str, tuple[str, str]] = {
    "a module of its own": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return 1",
        "assert math.isclose(f(2), 4)",
    ),
    "contains all": (
        _LIAR.format(base="", value="Liar()"),
        "assert 17 in f(1)",
    ),
    "counts through all": (
        "import itertools\ndef f(x): return itertools.count()",
        "assert 17 in f(1)\nassert 18 in f(1)",
    ),
    "iterates for ever": (
        "import itertools\ndef f(x): return itertools.count()",
        "assert any(item == 17 for item in f(1))",
    ),
    "swallowed early exit": (
        "import os\ndef f(x): os._exit(0)",
        "try:\n    f(1)\nexcept BaseException:\n    pass",
    ),
    "an error where one is wanted, by leaving": (
        "def f(x): raise SystemExit",
        "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
    ),
    "nothing is called": ("def check(c): pass\ndef f(x): return 1", ""),
    "only its own check": ("def check(c): c(1)\ndef f(x): return 1", "METADATA = {}"),
    "is everything's class": (
        "class Meta(type):\n    def __instancecheck__(cls, other): return True\n"
        "class int(metaclass=Meta): pass\ndef f(x): return 'no'",
        "assert isinstance(f(1), int)",
    ),
    "sorted by itself": (
        "sorted = lambda x: x\ndef f(x): return x",
        "assert f([2, 1]) == sorted([2, 1])",
    ),
}
