"""The family's facts, against the figures that were published."""

from __future__ import annotations

from collections import Counter

import pytest

from codellama.model.config import ModelConfig, ffn_dim_from_meta
from codellama.model.family import MEMBERS, matches

# Parameters at each vocabulary; the 7B figure is half the byte total of its published index.
N_PARAMS = {
    ("7B", 32000): 6_738_415_616,
    ("7B", 32016): 6_738_546_688,
    ("13B", 32000): 13_015_864_320,
    ("13B", 32016): 13_016_028_160,
    ("34B", 32000): 33_743_970_304,
    ("70B", 32016): 68_976_910_336,
}


def test_twelve_members() -> None:
    assert len(MEMBERS) == 12
    assert Counter(m.size for m in MEMBERS) == {"7B": 3, "13B": 3, "34B": 3, "70B": 3}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_parameter_counts(member) -> None:
    assert member.config.n_params == N_PARAMS[member.size, member.config.vocab_size]


@pytest.mark.parametrize(
    ("size", "multiple_of", "multiplier"),
    [("7B", 256, 1.0), ("13B", 256, 1.0), ("34B", 256, 1.0), ("70B", 4096, 1.3), ("7B", 256, None)],
)
def test_feed_forward_width_by_metas_rule(
    size: str, multiple_of: int, multiplier: float | None
) -> None:
    config = next(m.config for m in MEMBERS if m.size == size)
    assert ffn_dim_from_meta(config.dim, multiple_of, multiplier) == config.ffn_dim


def test_70b_without_long_context_stage() -> None:
    short = [m.name for m in MEMBERS if m.config.rope_theta == 1e4]
    assert short == ["CodeLlama-70B-Python", "CodeLlama-70B-Instruct"]


def test_matches_names_every_member_of_a_shape() -> None:
    names = [m.name for m in matches(MEMBERS[0].config)]
    assert names == ["CodeLlama-7B", "CodeLlama-7B-Instruct"]


def test_matches_nothing_for_another_rope_base() -> None:
    wrong = {**MEMBERS[0].config.__dict__, "rope_theta": 1e4}
    assert matches(ModelConfig(**wrong)) == []
