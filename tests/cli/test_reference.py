"""The page in the documentation is what `--help` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.cli import reference
from codellama.cli.main import VERBS, main, parser, verb_parser

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
REWRITE = "python -m codellama.cli.reference > docs/cli.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page(), f"run: {REWRITE}"


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_holds_what_a_verb_prints(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([verb, "--help"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.strip() in PAGE.read_text(encoding="utf-8")


def test_every_verb_is_listed_and_every_option_explained() -> None:
    assert all(f"  {verb}" in parser().format_help() for verb in VERBS)
    for verb in VERBS:
        for action in verb_parser(verb)._actions:
            assert action.help or action.choices, f"{verb} {action.dest}"
