"""Runs programs that a model wrote, isolated or not at all.

with Sandbox.open() as box:
    print(box.run("print(1 + 1)").stdout)
    print(box.check("def double(x): return 2 * x", "assert double(4) == 8", None).passed)
"""

from codellama.errors import SandboxError, SandboxUnavailable
from codellama.sandbox.box import Sandbox
from codellama.sandbox.limits import Limits
from codellama.sandbox.results import Ran, Verdict

__all__ = ["Limits", "Ran", "Sandbox", "SandboxError", "SandboxUnavailable", "Verdict"]
