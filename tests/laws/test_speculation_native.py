"""Guessing ahead over every runner: same tokens, and log-probabilities as `engine_bodies` says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import tiny_config, tiny_weights, write_hf
from codellama import LLM, Completion, ConfigError, SamplingParams, checkpoint
from codellama.checkpoint.hub import resolve
from codellama.engine.draft_model import DraftModel
from codellama.engine.plan import EnginePlan
from codellama.engine.sampler import kernel_for
from engine_bodies import assert_same, runner_of
from fakes import Teacher

GREEDY = SamplingParams(temperature=0.0, max_tokens=60, seed=1, ignore_eos=True, logprobs=3)
SAMPLED = SamplingParams(
    temperature=0.8, top_p=0.9, top_k=100, min_p=0.01, max_tokens=60, seed=23, ignore_eos=True,
    repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, logprobs=3,
)  # fmt: skip
PROMPTS = [f"{'def print(self): return x ' * (i % 4)}for y in range({i})" for i in range(8)]
BOTH = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def said(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.token_ids, c.text, c.finish_reason, c.logprobs) for c in completions]


def loaded(
    path: Path, *, body: str = "native", n_blocks: int = 256, drafters: Any = (), **options: Any
) -> LLM:
    reader = checkpoint.open(path)
    runner = runner_of(body, path, n_blocks=n_blocks)
    plan = EnginePlan(max_seq_len=256, n_blocks=n_blocks, **options)
    return LLM(runner, reader.tokenizer(), plan, drafters=drafters)


def draft_model(
    path: Path, *, body: str = "native", n_blocks: int = 256, cost: float = 0.01
) -> DraftModel:
    reader = checkpoint.open(path)
    runner = runner_of(body, path, n_blocks=n_blocks)
    return DraftModel(
        runner, kernel_for(runner), reader.tokenizer().n_vocab, cost=cost, step_tokens=64
    )


@cache
def plain(path: Path, params: SamplingParams, body: str = "native") -> list[Completion]:
    llm = loaded(path, body=body, speculation="off", share_prefixes=False)
    return [llm.complete(prompt, params) for prompt in PROMPTS]


@BOTH
@pytest.mark.parametrize("errors", [0.0, 0.3])
@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param({}, id="in a crowd"),
        pytest.param({"max_num_seqs": 1, "draft_tokens": 40}, id="alone"),
        pytest.param({"n_blocks": 20}, id="pre-empted"),
    ],
)
@pytest.mark.parametrize(
    ("body", "model"),
    [
        ("native", "nano"),
        ("native", "tiny"),
        *(
            pytest.param(body, "tiny", marks=pytest.mark.slow)
            for body in ("torch", "fused", "recorded")
        ),
    ],
)
def test_speculative_is_plain(
    hf_folder: Path, body: str, model: str, schedule: dict[str, Any], errors: float,
    params: SamplingParams,
) -> None:  # fmt: skip
    path = hf_folder if model == "tiny" else Path(resolve("nano"))
    expected = plain(path, params, body)
    replies: dict[tuple[int, ...], tuple[int, ...]] = {}
    guesser = Teacher(lambda s: replies[tuple(s.tokens[: s.n_prompt])], errors=errors)
    llm = loaded(path, body=body, drafters=(guesser,), draft_cost=0.001, **schedule)
    replies |= {llm.completion_ids(p): c.token_ids for p, c in zip(PROMPTS, expected, strict=True)}
    for _ in range(2):  # the second time with whatever the cache still holds
        found = llm.complete(PROMPTS, params)
        assert_same(found, expected, body)
    assert sum(c.timings.accepted_tokens for c in found) > 100


@BOTH
def test_nano_with_lookup_as_it_is_loaded(params: SamplingParams) -> None:
    prompt = "\n".join(f"def area_{i}(r):\n    return r * {i}\n" for i in range(6)) * 2
    found = [
        LLM.load("nano", n_threads=2, speculation=way).complete([prompt, *PROMPTS], params)
        for way in ("off", "lookup")
    ]
    assert said(found[0]) == said(found[1])
    assert sum(c.timings.accepted_tokens for c in found[1]) > (50 if params is GREEDY else 0)
    assert sum(c.timings.drafted_tokens for c in found[0]) == 0


@BOTH
@pytest.mark.parametrize(
    ("body", "schedule"),
    [
        ("native", {}), ("native", {"n_blocks": 20}), ("native", {"step_tokens": 16}),
        ("recorded", {"n_blocks": 20, "step_tokens": 16}),
    ],
)  # fmt: skip
def test_a_draft_model_changes_nothing(
    hf_folder: Path, body: str, schedule: dict[str, Any], params: SamplingParams
) -> None:
    other = hf_folder.parent / "hf-of-other-weights"
    if not other.exists():
        write_hf(other, weights=tiny_weights(seed=9))
    for folder in (hf_folder, other):
        for n_blocks in (256, 18):
            drafter = draft_model(folder, body=body, n_blocks=n_blocks)
            llm = loaded(hf_folder, body=body, drafters=(drafter,), draft_cost=0.01, **schedule)
            assert_same(llm.complete(PROMPTS, params), plain(hf_folder, params, body), body)
            assert drafter.pool.n_free == drafter.pool.n_blocks


@BOTH
def test_a_model_that_drafts_for_itself_is_always_right(
    hf_folder: Path, params: SamplingParams
) -> None:
    """Each guess is drawn with the very number it will be judged with; the cache keeps in step."""
    llm = loaded(hf_folder, drafters=(draft_model(hf_folder),), draft_cost=0.01)
    llm._engine._engine._speculation._drafters = (  # type: ignore[union-attr]
        llm._engine._engine._speculation._drafters[1:]  # type: ignore[union-attr]
    )
    for prompts in (PROMPTS[:1], PROMPTS):
        timings = [c.timings for c in llm.complete(prompts, params)]
        assert all(t.accepted_tokens == t.drafted_tokens > 30 for t in timings)


def test_vocabularies_must_agree(hf_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 8192 pieces in its vocabulary, and the model has"):
        LLM.load(hf_folder, n_threads=1, draft_model="nano")
    from sentencepiece import sentencepiece_model_pb2 as pb

    other = write_hf(tmp_path / "other", tiny_config(n_layers=1))
    model = pb.ModelProto.FromString((other / "tokenizer.model").read_bytes())
    model.pieces[300].piece, model.pieces[301].piece = (
        model.pieces[301].piece, model.pieces[300].piece
    )  # fmt: skip
    (other / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match=r"its token 300 is '.*', and the model's is"):
        LLM.load(hf_folder, n_threads=1, draft_model=other)


def test_loaded_with_a_draft_model(hf_folder: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=60, seed=1)
    llm = LLM.load(hf_folder, n_threads=2, draft_model=hf_folder, max_num_seqs=2)
    assert said([llm.complete(PROMPTS[1], params)]) == said(
        [LLM.load(hf_folder, n_threads=2, speculation="off").complete(PROMPTS[1], params)]
    )
    plain_plan = LLM.load(hf_folder, n_threads=2, max_num_seqs=2).plan
    assert llm.plan.kv_bytes_per_token == 2 * plain_plan.kv_bytes_per_token
    with pytest.raises(ConfigError, match="speculation is off"):
        LLM.load(hf_folder, speculation="off", draft_model=hf_folder)
