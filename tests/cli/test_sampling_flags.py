"""Flags become the sampling parameters they name."""

from __future__ import annotations

import re
from argparse import Namespace

import pytest

from codellama.cli import sampling
from codellama.cli.usage import Parser, UsageError
from codellama.engine.params import SamplingParams
from codellama.errors import RequestError


def parser() -> Parser:
    found = Parser(prog="codellama test")
    found.add_argument("--json", action="store_true")
    sampling.add_arguments(found, max_tokens=256)
    return found


def parse(*flags: str) -> Namespace:
    return parser().parse_args(list(flags))


def test_every_flag_reaches_its_field() -> None:
    found = sampling.params(
        parse(
            *("--temperature", "0.7", "--top-p", "0.8", "--top-k", "9", "--min-p", "0.1"),
            *("--repetition-penalty", "1.1", "--max-tokens", "5", "--seed", "3", "--logprobs", "2"),
            *("--stop", "a", "--stop", "b"),
        )
    )
    assert found == SamplingParams(
        temperature=0.7, top_p=0.8, top_k=9, min_p=0.1, repetition_penalty=1.1, max_tokens=5,
        seed=3, logprobs=2, stop=("a", "b"),
    )  # fmt: skip


def test_without_flags_the_library_decides_all_but_the_seed() -> None:
    found = sampling.params(parse())
    assert found.seed is not None
    assert found == SamplingParams(seed=found.seed)


def test_help_states_the_librarys_defaults() -> None:
    text = re.sub(r"\s+", " ", parser().format_help())
    params = SamplingParams()
    for flag, default in (
        ("temperature", params.temperature),
        ("top-p", params.top_p),
        ("min-p", params.min_p),
        ("repetition-penalty", params.repetition_penalty),
        ("max-tokens", params.max_tokens),
    ):
        described = text.rsplit(f"--{flag} ", 1)[1]
        assert re.search(r"\(default: ([^)]*)\)", described)[1] == f"{default:g}", flag  # type: ignore[index]


def test_two_runs_draw_two_seeds() -> None:
    assert sampling.params(parse()).seed != sampling.params(parse()).seed


def test_to_the_end_of_the_context() -> None:
    assert sampling.params(parse("--max-tokens", "end")).max_tokens is None


@pytest.mark.parametrize(
    ("given", "stop"),
    [(r"\n\n", "\n\n"), (r"\t\r", "\t\r"), (r"\\n", r"\n"), (r"\d", r"\d"), ("\n", "\n")],
)
def test_stops_understand_escapes(given: str, stop: str) -> None:
    assert sampling.params(parse("--stop", given)).stops == (stop,)


@pytest.mark.parametrize(
    "flags", [("--n", "0"), ("--max-tokens", "-1"), ("--max-tokens", "x"), ("--temperature", "x")]
)
def test_values_that_are_no_numbers_are_usage_errors(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        parse(*flags)
    assert error.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_numbers_out_of_range_are_refused_by_the_library() -> None:
    with pytest.raises(RequestError, match="top_p"):
        sampling.params(parse("--top-p", "2"))


def test_logprobs_need_json() -> None:
    with pytest.raises(UsageError, match="--json"):
        sampling.check(parse("--logprobs", "3"))
    sampling.check(parse("--logprobs", "3", "--json"))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (SamplingParams(seed=7), "temperature 0.2, top-p 0.95, seed 7"),
        (SamplingParams(seed=7, temperature=0.0), "greedy"),
        (
            SamplingParams(seed=7, temperature=1.0, top_p=1.0, top_k=4, min_p=0.1),
            "temperature 1, top-k 4, min-p 0.1, seed 7",
        ),
        (
            SamplingParams(temperature=0.0, repetition_penalty=1.5),
            "greedy, repetition penalty 1.5",
        ),
    ],
)
def test_sampling_is_described(params: SamplingParams, words: str) -> None:
    assert sampling.describe(params) == words
