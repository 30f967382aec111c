"""What each stage of a cascade is for, as figures on held-out text that only it should better.

    infilling   loss on the middles of functions cut in three, prefix-suffix-middle
    keys far    share of keys found again that stand further away than the first row length
    keys near   the same within the first row length, to compare
    beyond      loss on tokens of long files behind the first stage's row length
    within      the same files' tokens before it, to compare
    answers     loss on the answers of conversations about held-out functions

Losses are in nats a token. A key counts as found when both of its digits are the likeliest tokens,
which is what decoding greedily would write.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import torch

from codellama.errors import ConfigError
from codellama.model.transformer import Transformer
from codellama.train.batch import RowBatch, batch_loss
from codellama.train.conversations import about_functions
from codellama.train.data import Row, Sample, row
from codellama.train.infilling import infilled, split_lines
from codellama.train.keys import KeySource, KeyText
from codellama.train.loss import IGNORED
from codellama.train.recipe import Recipe
from codellama.train.run import CorpusFolder

LOSSES = ("infilling", "beyond", "within", "answers")
SHARES = ("keys far", "keys near")
FIGURES = (*LOSSES, *SHARES)


class Effects:
    """Measures a model of `recipe` on the held-out part of a corpus.

    Raises:
        ConfigError: too little is held out.
    """

    def __init__(self, corpus: CorpusFolder, recipe: Recipe, n: int = 48) -> None:
        tokenizer = corpus.tokenizer
        short = recipe.stages[0].row_length
        long = max(stage.row_length for stage in recipe.stages)
        functions, files = (
            [*corpus.documents("val-pkg", kind), *corpus.documents("val-file", kind)]
            for kind in ("function", "python")
        )
        self._rows: dict[str, list[Row]] = {name: [] for name in LOSSES}
        for document in functions:
            random = Random(document.path)
            ids = infilled(tokenizer, *split_lines(document.text, random), "psm")
            given = ids.index(tokenizer.middle_id) + 1 if tokenizer.middle_id in ids else 0
            if 40 <= len(ids) <= short and given and len(self._rows["infilling"]) < n:
                self._rows["infilling"].append(row([Sample(ids, given)], short))
        for talk in about_functions(functions, seed=1):
            *prompt, answer = talk
            given_ids = corpus.prompt_ids(prompt)
            learned = tokenizer.encode_bare(" " + answer["content"].strip())
            ids = [*given_ids, *learned, tokenizer.eos_id]
            if len(ids) <= short and len(self._rows["answers"]) < n:
                self._rows["answers"].append(row([Sample(ids, len(given_ids))], short))
        for document in files:
            ids = [tokenizer.bos_id, *tokenizer.encode(document.text)][: long + 1]
            if len(ids) > long and len(self._rows["beyond"]) < n // 2:
                for name, keep in (("within", slice(0, short)), ("beyond", slice(short, long))):
                    whole = row([Sample(ids)], long)
                    labels = whole.labels.copy()
                    labels[:] = IGNORED
                    labels[keep] = whole.labels[keep]
                    self._rows[name].append(Row(whole.tokens, labels, whole.positions,
                                                whole.document))  # fmt: skip
        self._keys: dict[str, list[tuple[Row, KeyText]]] = {name: [] for name in SHARES}
        maker = KeySource(functions, tokenizer, long)
        for name, length in (("keys far", long), ("keys near", short)):
            for i in range(n // 2 if functions else 0):
                made = maker.text(Random(f"{name}/{i}"), length, n_keys=4, first=True)
                self._keys[name].append((row([Sample(made.ids)], length), made))
        for name, rows in self._rows.items():
            if not rows:
                raise ConfigError(
                    f"{corpus.folder}: nothing is held out to measure {name!r} with",
                    hint="hold out whole projects, or build a larger corpus",
                )

    @torch.no_grad()
    def __call__(self, model: Transformer, bf16: bool = False) -> dict[str, float]:
        """The figures of `model`, with the rotary base it has now."""
        device = model.norm.weight.device
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            figures = {name: _loss(model, rows) for name, rows in self._rows.items()}
            return figures | {name: _found(model, texts) for name, texts in self._keys.items()}


def _loss(model: Transformer, rows: Sequence[Row]) -> float:
    total, n_tokens = 0.0, 0
    for i in range(0, len(rows), 8):
        batch = RowBatch.of(rows[i : i + 8], model.norm.weight.device)
        total += float(batch_loss(model, batch))
        n_tokens += int((batch.labels != IGNORED).sum())
    return total / n_tokens


def _found(model: Transformer, texts: Sequence[tuple[Row, KeyText]]) -> float:
    n_found = n_asked = 0
    for line, text in texts:
        batch = RowBatch.of([line], model.norm.weight.device)
        hidden = model(batch.tokens, batch.positions, batch.attention())
        first = torch.tensor(text.answers, device=hidden.device)
        at = torch.cat((first - 1, first))  # the position before each digit says it
        right = model.lm_head(hidden[at]).argmax(-1) == batch.labels[at]
        n_found += int((right[: len(first)] & right[len(first) :]).sum())
        n_asked += len(text.answers)
    return n_found / n_asked


def read_stages(log: Path) -> list[tuple[str, dict[str, float]]]:
    """The last figures of every stage in a run's log, in order.

    Raises:
        ConfigError: the log holds none.
    """
    found: dict[str, dict[str, float]] = {}
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["event"] == "evaluation" and set(FIGURES) <= set(entry):
                found[entry["stage"]] = {name: float(entry[name]) for name in FIGURES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{log} is not the log of a run: {error!r}") from error
    if not found:
        raise ConfigError(f"{log} holds no figures of stages")
    return list(found.items())


def svg(stages: Sequence[tuple[str, Mapping[str, float]]], title: str) -> str:
    """Bars: a group for each figure, a bar for each stage.

    Losses have one scale; shares end at 1.
    """
    width, height, base = 880, 360, 300
    top = max(figures[name] for _, figures in stages for name in LOSSES)
    colours = ("#9db4cf", "#5b8bbf", "#2563a8", "#c0501f", "#7a4a9a", "#3c8c5a")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        "<style>text{font:12px sans-serif;fill:#333}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="24" style="font-size:15px">{html.escape(title)}</text>',
    ]
    group = (width - 40) / len(FIGURES)
    bar = group * 0.8 / len(stages)
    for g, name in enumerate(FIGURES):
        for s, (_, figures) in enumerate(stages):
            x, size = 20 + g * group + s * bar, (base - 60) * figures[name]
            size /= 1.0 if name in SHARES else top
            parts.append(
                f'<rect x="{x:.1f}" y="{base - size:.1f}" width="{bar * 0.9:.1f}" '
                f'height="{size:.1f}" fill="{colours[s % len(colours)]}"/>'
                f'<text x="{x + bar * 0.45:.1f}" y="{base - size - 5:.1f}" text-anchor="middle">'
                f"{figures[name]:.2f}</text>"
            )
        parts.append(f'<text x="{20 + g * group:.1f}" y="{base + 18}">{name}</text>')
    for s, (stage, _) in enumerate(stages):
        x = 20 + s * 170
        parts.append(
            f'<rect x="{x}" y="{height - 28}" width="12" height="12" '
            f'fill="{colours[s % len(colours)]}"/>'
            f'<text x="{x + 18}" y="{height - 18}">after {html.escape(stage)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(stages: Iterable[tuple[str, Mapping[str, float]]]) -> str:
    """The figures as text, one line a stage."""
    lines = [f"{'after':10}" + "".join(f"{name:>11}" for name in FIGURES)]
    for stage, figures in stages:
        lines.append(f"{stage:10}" + "".join(f"{figures[name]:11.3f}" for name in FIGURES))
    return "\n".join(lines)
