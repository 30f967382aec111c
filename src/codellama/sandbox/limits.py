"""What a program in the sandbox may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from codellama.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one run.

    Memory is bounded per process by the kernel, so what a run can take is
    `processes * memory_bytes + disk_bytes`, and `processes` is 1 unless a caller asks for more.

    Attributes:
        cpu_s: seconds of processor time.
        wall_s: seconds on the clock; also ends programs that sleep.
        memory_bytes: address space of a process.
        processes: processes at the same time; with 1, starting another is refused.
        threads: threads of all processes together.
        disk_bytes: what all files in the scratch directory hold together; they live in memory.
        files: files and directories in the scratch directory.
        output_bytes: standard output and standard error, each; a program that writes more is ended.
        program_bytes: the program, its tests and its input files together.
        open_files: file descriptors of a process.
    """

    cpu_s: float = 5.0
    wall_s: float = 15.0
    memory_bytes: int = 512 * MIB
    processes: int = 1
    threads: int = 16
    disk_bytes: int = 32 * MIB
    files: int = 1024
    output_bytes: int = MIB
    program_bytes: int = 4 * MIB
    open_files: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"sandbox limit {field.name} is {value}; it has to be above 0")
        if self.memory_bytes < 64 * MIB:
            raise ConfigError(
                f"sandbox limit memory_bytes is {self.memory_bytes}; Python needs {64 * MIB}"
            )
