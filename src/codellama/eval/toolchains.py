"""Programs of other languages: built and run in the sandbox by whatever toolchain is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codellama.errors import ConfigError
from codellama.eval.suite import Build

if TYPE_CHECKING:
    from codellama.sandbox import Limits

_SYSTEM = (
    "/usr/bin", "/bin", "/usr/lib", "/usr/libexec", "/usr/include", "/usr/share",
    "/etc/alternatives",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """The file a program goes into, and the commands that build and run it, one after another.

    `least` is a program that does nothing and ends well. `library` is a file that the benchmark's
    programs import, and the package that brings it.
    """

    file: str
    commands: tuple[tuple[str, ...], ...]
    least: str
    library: tuple[str, str] | None = None


_TUPLES = "/usr/share/java/javatuples.jar"
_SMALL_JVM = ("-Xmx1g", "-XX:+UseSerialGC", "-XX:-UsePerfData")

TOOLCHAINS = {
    "cpp": Toolchain(
        file="program.cpp",
        commands=(("g++", "-std=c++17", "program.cpp", "-o", "program"), ("./program",)),
        least="int main() {}",
    ),
    "java": Toolchain(
        file="Problem.java",
        commands=(
            (
                "javac",
                *(f"-J{option}" for option in _SMALL_JVM),
                "-encoding",
                "UTF8",
                "-cp",
                _TUPLES,
                "Problem.java",
            ),
            ("java", *_SMALL_JVM, "-ea", "-cp", f".:{_TUPLES}", "Problem"),
        ),
        least="import org.javatuples.*;\nclass Problem { public static void main(String[] a) {} }",
        library=(_TUPLES, "libjavatuples-java"),
    ),
    "js": Toolchain(file="program.js", commands=(("node", "program.js"),), least=""),
    "ts": Toolchain(
        file="program.ts",
        commands=(("tsc", "--target", "esnext", "program.ts"), ("node", "program.js")),
        least="",
    ),
    "cs": Toolchain(
        file="program.cs",
        commands=(
            ("csc", "/d:DEBUG", "-r:System.Numerics.dll", "program.cs", "/out:program.exe"),
            ("mono", "program.exe"),
        ),
        least="class P { static void Main() {} }",
    ),
    "sh": Toolchain(file="program.sh", commands=(("bash", "program.sh"),), least="true"),
    "php": Toolchain(file="program.php", commands=(("php", "program.php"),), least="<?php"),
    "pl": Toolchain(file="program.pl", commands=(("perl", "program.pl"),), least="1;"),
    "rb": Toolchain(file="program.rb", commands=(("ruby", "program.rb"),), least=""),
    "lua": Toolchain(file="program.lua", commands=(("lua", "program.lua"),), least=""),
    "go": Toolchain(
        file="program_test.go", commands=(("go", "test", "program_test.go"),), least="package p\n"
    ),
    "rs": Toolchain(
        file="program.rs",
        commands=(("rustc", "program.rs", "-o", "program"), ("./program",)),
        least="fn main() {}",
    ),
}

# Runs inside the sandbox, where it is the one program that is started from outside.
_DRIVER = """
import os, subprocess, sys
os.environ.update({environment!r})
for command in {commands!r}:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        sys.stderr.write(f"{{command[0]}}: exit code {{done.returncode}}\\n")
        sys.stderr.write((done.stdout + done.stderr).decode(errors="replace")[-2000:])
        sys.exit(1)
"""


def require(language: str) -> None:
    """Raises ConfigError where the language's programs cannot be built here."""
    elsewhere = "draw samples with --no-run and judge them elsewhere"
    for name in _names(language):
        if shutil.which(name) is None:
            raise ConfigError(
                f"{language} programs need {name}, which is not installed here",
                hint=f"install it, or {elsewhere}",
            )
    library = TOOLCHAINS[language].library
    if library is not None and not Path(library[0]).exists():
        raise ConfigError(
            f"{language} programs need {library[0]}, which is not there",
            hint=f"install {library[1]}, or {elsewhere}",
        )


def prove(box: Runs, language: str) -> None:
    """Raises ConfigError where not even a program that does nothing is built and run."""
    passed, said = run(box, Build(language=language, program=TOOLCHAINS[language].least))
    if not passed:
        raise ConfigError(f"{language} programs do not run in the sandbox here: {said}")


def programs(language: str) -> list[str]:
    """What the sandbox has to hold for a language, read-only: the system's programs, and where the
    toolchain is if that is another place."""
    found = [path for path in _SYSTEM if Path(path).exists()]
    for name in _names(language):
        where = shutil.which(name)
        if where is not None:
            real = Path(os.path.realpath(where))
            folder = str(real.parents[1])
            if not str(real).startswith(tuple(f"{path}/" for path in found)):
                found.append(folder)
            settings = Path("/etc") / Path(folder).name.removesuffix("-amd64")
            found += (
                [str(settings)] if settings.is_dir() else []
            )  # a JDK keeps some of itself there
    return list(dict.fromkeys(found))


def limits(cpu_s: float) -> Limits:
    """Compilers and virtual machines take more than Python does."""
    from codellama.sandbox import Limits

    return Limits(
        cpu_s=max(30.0, cpu_s), wall_s=90.0, memory_bytes=8 << 30, processes=64, threads=256,
        disk_bytes=256 << 20, open_files=512,
    )  # fmt: skip


class Runs(Protocol):
    """What is needed of `codellama.sandbox.Sandbox`."""

    def run(
        self, program: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None
    ) -> Any:
        """A program's end, with `status`, `stderr` and `reason`."""
        ...


def run(box: Runs, work: Build) -> tuple[bool, str]:
    """Whether a program is built and ends with exit code 0, and what it said if not."""
    tools = TOOLCHAINS[work.language]
    driver = _DRIVER.format(
        commands=[list(command) for command in tools.commands],
        environment=_environment(work.language),
    )
    ran = box.run(driver, files={tools.file: work.program.encode()})
    if ran.status == "ok":
        return True, ""
    said = ran.stderr.strip().splitlines()
    return False, (" ".join(said[:3]) or f"{ran.status}: {json.dumps(ran.reason)}")[:300]


def _environment(language: str) -> dict[str, str]:
    found = [Path(shutil.which(name) or "/usr/bin/x") for name in _names(language)]
    folders = [str(path.parent) for path in found]
    # Programs look for libraries beside themselves, and without /proc cannot tell where they are.
    libraries = [str(Path(os.path.realpath(path)).parents[1] / "lib") for path in found]
    return {
        "PATH": ":".join([*dict.fromkeys(folders), "/usr/bin", "/bin"]),
        "LD_LIBRARY_PATH": ":".join(dict.fromkeys(libraries)),
        "HOME": "/tmp",
    }


def _names(language: str) -> list[str]:
    commands = TOOLCHAINS[language].commands
    return [command[0] for command in commands if not command[0].startswith("./")]
