"""Programs of other languages, in the sandbox, where their toolchain is installed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command import run

from codellama.errors import ConfigError, SandboxUnavailable
from codellama.eval import toolchains
from codellama.sandbox import Sandbox


def full(language: str) -> None:
    """Skips where a language's programs cannot be run, saying why."""
    try:
        toolchains.require(language)
        Sandbox.open(
            limits=toolchains.limits(3), programs=toolchains.programs(language)
        ).close()  # fmt: skip
    except (ConfigError, SandboxUnavailable) as error:
        pytest.skip(str(error))


PROMPTS = {
    "sh": ("twice() {\n", "    echo $(( 2 * $1 ))\n", '}\n[ "$(twice 4)" = 8 ] || exit 1\n'),
    "cpp": (
        "#include <cassert>\nint twice(int x) {\n",
        "    return 2 * x;\n",
        "}\nint main() { assert(twice(4) == 8); }\n",
    ),
    "java": (
        "import org.javatuples.*;\nclass Problem {\n    static Pair<Long, Long> twice(long x) {\n",
        "        return Pair.with(x, 2 * x);\n",
        "    }\n    public static void main(String[] args) {\n"
        "        assert(twice(4l).equals(Pair.with(4l, 8l)));\n    }\n}\n",
    ),
}


@pytest.mark.parametrize("language", sorted(PROMPTS))
def test_a_right_and_a_wrong_program(language: str, tmp_path: Path) -> None:
    full(language)
    prompt, reply, tests = PROMPTS[language]
    row = {"name": "P", "prompt": prompt, "tests": tests, "stop_tokens": ["\n}"]}
    data, samples = tmp_path / "data.jsonl", tmp_path / "samples.jsonl"
    data.write_text(json.dumps(row))
    texts = [reply, reply.replace("2 *", "3 *"), "    (((\n"]
    samples.write_text(
        "".join(json.dumps({"task_id": "P", "completion": text}) + "\n" for text in texts)
    )
    done = run("eval", "multipl-e", "--language", language, "--data", data, "--samples", samples,
               "--out", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    [figure] = json.loads(done.out)["figures"]
    assert figure["key"] == f"{language}/pass@1"
    assert figure["value"] == pytest.approx(1 / 3)


def test_what_others_may_not_start() -> None:
    """Without `programs` nothing of the system can be started, even where several processes may."""
    shell = shutil.which("sh")
    try:
        box = Sandbox.open(limits=toolchains.limits(3))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with box:
        ran = box.run(f"import subprocess; subprocess.run([{shell!r}, '-c', 'true'], check=True)")
    assert ran.status == "error"


def test_a_language_without_a_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="need lua, which is not installed"):
        toolchains.require("lua")


def test_a_language_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolchain is there, and what the benchmark's programs import is not."""
    shell = toolchains.TOOLCHAINS["sh"]
    lacking = replace(shell, library=("/nowhere/tuples.jar", "libtuples"))
    monkeypatch.setitem(toolchains.TOOLCHAINS, "sh", lacking)
    with pytest.raises(ConfigError, match=r"need /nowhere/tuples\.jar") as raised:
        toolchains.require("sh")
    assert "install libtuples" in str(raised.value.__notes__)
