"""Wheels and modules for the tests of training, made from nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path
from random import Random

RECIPES = Path(__file__).parents[1] / "recipes"

SOURCES = """
standard_library = false
max_share = 1.0
[[train]]
name = "alpha"
version = "1.0"
licence = "MIT"
[[train]]
name = "forbidden"
version = "2.0"
licence = "GPL-3.0-only"
[[held_out]]
name = "omega"
version = "0.1"
licence = "BSD-3-Clause"
"""


def make_wheel(folder: Path, name: str, version: str, licence: str, files: dict[str, str]) -> Path:
    """A wheel with the given files, its licence in the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
    metadata += f"License-Expression: {licence}\n\n" + f"The {name} project is a project. " * 30
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{name}/{file}", text)
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        wheel.writestr(f"{name}-{version}.dist-info/licenses/LICENSE.txt", f"Terms: {licence}")
    return path


def module(number: int, n_functions: int = 12) -> str:
    """Plain Python with documented functions, different for every number."""
    random = Random(number)
    names = ("width", "height", "count", "total", "index", "name", "value", "limit")
    parts = [f'"""Module {number} of the example project."""\n\nimport math\n']
    for i in range(n_functions):
        a, b = random.sample(names, 2)
        sign = random.choice(("+", "-", "*"))
        parts.append(
            f"\n\ndef {a}_{b}_{number}_{i}({a}, {b}):\n"
            f'    """Return the {a} combined with the {b}."""\n'
            f"    if {a} > {b}:\n        return {a} {sign} {b}\n    return math.sqrt({b})\n"
        )
    return "".join(parts)
