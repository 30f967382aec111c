"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "error", "timeout", "memory", "killed", "refused"]
"""How a program ended.

ok       with exit code 0
error    with another exit code, most often after an exception
timeout  its CPU time or its time on the clock was over
memory   it asked for more memory than it may have and did not cope
killed   by a signal, such as a segmentation fault, or because it wrote too much
refused  it was not started: it is too large, or no text that Python can hold
"""


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it wrote, cut at the limit.

    `exit_code` is negative for a signal and None where none came, as when the time on the clock was
    over; `cpu_s` is 0 then. `reason` is a short clause.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    cpu_s: float
    wall_s: float
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a solution passed its tests.

    `status` is "ok" for one that passed, "failed" where a test said no, and otherwise says how the
    solution or its tests ended. `reason` is one sentence for people; texts in it that come from a
    candidate are cut short. `cpu_s` counts the candidate and its tests, `wall_s` the whole check.
    """

    passed: bool
    status: Status | Literal["failed"]
    reason: str
    cpu_s: float
    wall_s: float
    output: str = ""
