"""The twelve members of the Code Llama family, as facts for people, planning and tests.

Nothing is loaded by these numbers: a model's sizes come from its checkpoint. Sources: the paper
(Rozière et al., "Code Llama: Open Foundation Models for Code", arXiv 2308.12950), Meta's
`params.json` files and model card, and the configurations published with the converted weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codellama.model.config import ModelConfig

Variant = Literal["base", "Python", "Instruct"]
ChatForm = Literal["inst", "step"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One released model."""

    name: str
    size: str
    variant: Variant
    config: ModelConfig
    can_infill: bool
    chat_form: ChatForm | None
    hub_name: str


_SIZES = {
    "7B": {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "ffn_dim": 11008},
    "13B": {"dim": 5120, "n_layers": 40, "n_heads": 40, "n_kv_heads": 40, "ffn_dim": 13824},
    "34B": {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8, "ffn_dim": 22016},
    "70B": {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "ffn_dim": 28672},
}


def _member(size: str, variant: Variant) -> Member:
    # The infilling pieces: 7B and 13B but for Python, and every 70B.
    has_pieces = size == "70B" or (size in ("7B", "13B") and variant != "Python")
    # The 70B Python and Instruct models skipped the long-context stage.
    short = size == "70B" and variant != "base"
    chat_form: ChatForm | None = None
    if variant == "Instruct":
        chat_form = "step" if size == "70B" else "inst"
    suffix = "" if variant == "base" else f"-{variant}"
    return Member(
        name=f"CodeLlama-{size}{suffix}",
        size=size,
        variant=variant,
        config=ModelConfig(
            **_SIZES[size],  # type: ignore[arg-type]  # sizes only: never the flag
            head_dim=128,
            vocab_size=32016 if has_pieces else 32000,
            norm_eps=1e-5,
            rope_theta=1e4 if short else 1e6,
            max_seq_len=4096 if short else 16384,
        ),
        # 70B-Python has the pieces, but nothing says that it was trained to use them.
        can_infill=has_pieces and not (size == "70B" and variant == "Python"),
        chat_form=chat_form,
        hub_name=f"codellama/CodeLlama-{size.lower()}{suffix}-hf",
    )


MEMBERS: tuple[Member, ...] = tuple(
    _member(size, variant) for size in _SIZES for variant in ("base", "Python", "Instruct")
)


def matches(config: ModelConfig) -> list[Member]:
    """The members whose sizes, vocabulary and rotary base are those of `config`.

    Several members share all sizes (7B and 7B-Instruct, say); the context length is left out of
    the comparison because files of one member differ in it.
    """

    def key(c: ModelConfig) -> tuple[object, ...]:
        return (c.dim, c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim,
                c.vocab_size, c.rope_theta, c.tie_embeddings)  # fmt: skip

    return [member for member in MEMBERS if key(member.config) == key(config)]
