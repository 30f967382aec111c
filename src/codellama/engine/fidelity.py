"""How far a smaller copy of a model is from the original, on a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from codellama.errors import CheckpointError, ConfigError, PromptError
from codellama.runners import Batch, Runner, load_runner
from codellama.runners.sampling import to_array

if TYPE_CHECKING:
    from codellama.checkpoint.reader import Reader

_WIDTH = 512  # tokens read together
_BLOCK = 16
_ROWS = 64  # of logits compared at once, which bounds the temporaries


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Means over `n_tokens` predictions.

    `mean_kl` is the Kullback-Leibler divergence of the copy's next-token distribution from the
    original's, in nats; `same_choice` the share of predictions whose likeliest token is the same.
    """

    n_tokens: int
    mean_kl: float
    source_perplexity: float
    perplexity: float
    same_choice: float


def fidelity(
    source: Reader,
    copy: Reader,
    ids: Sequence[int],
    *,
    engine: Literal["cpu", "torch"] = "cpu",
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fidelity:
    """Runs both models over the text `ids`, one after the other, and compares their predictions.

    The text is read in pieces of at most 512 tokens, each on its own behind `<s>`. Memory holds one
    model, and 4 * vocab_size bytes for each id.

    Args:
        progress: called with the tokens read, of both models together, and their number.

    Raises:
        PromptError: there is no id to predict.
        ConfigError: the engine cannot run one of the models.
        CheckpointError: the two have different vocabularies, or a logit is not finite.
    """
    if not ids:
        raise PromptError("the text has no token to predict")
    if source.config.vocab_size != copy.config.vocab_size:
        raise CheckpointError(
            f"{source.path} has {source.config.vocab_size} tokens and {copy.path} "
            f"{copy.config.vocab_size}, so their predictions cannot be compared"
        )
    bos = source.tokenizer().bos_id
    width = min(_WIDTH, source.config.max_seq_len)
    windows = [[bos, *ids[i : i + width - 1]] for i in range(0, len(ids), width - 1)]
    n_read = 0

    def run(reader: Reader) -> Iterator[NDArray[np.float32]]:
        nonlocal n_read
        try:
            runner = load_runner(reader, engine=engine, max_seq_len=width, n_threads=n_threads)
        except ValueError as error:
            raise ConfigError(
                f"the {engine} engine cannot run {reader.path}: {error}",
                hint="the torch engine runs every format" if engine == "cpu" else None,
            ) from error
        for window in windows:
            logits = _logits(runner, window)
            if not np.isfinite(logits).all():
                raise CheckpointError(f"{reader.path}: gives logits that are not finite numbers")
            yield logits
            n_read += len(window) - 1
            if progress is not None:
                progress(n_read, 2 * len(ids))

    kept = list(run(source))
    kl = nll_source = nll_copy = 0.0
    n_same = 0
    for window, ours, theirs in zip(windows, kept, run(copy), strict=True):
        labels = np.array(window[1:])
        for at in range(0, len(labels), _ROWS):
            rows = slice(at, at + _ROWS)
            p, q = _log_softmax(ours[rows]), _log_softmax(theirs[rows])
            kl += float((np.exp(p) * (p - q)).sum())
            picked = np.arange(len(p)), labels[rows]
            nll_source -= float(p[picked].sum())
            nll_copy -= float(q[picked].sum())
            n_same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    n = len(ids)
    return Fidelity(
        n_tokens=n,
        mean_kl=max(0.0, kl / n),
        source_perplexity=math.exp(nll_source / n),
        perplexity=math.exp(nll_copy / n),
        same_choice=n_same / n,
    )


def _logits(runner: Runner, window: Sequence[int]) -> NDArray[np.float32]:
    """What follows each token but the last, which nothing in the window does: [n - 1, vocab]."""
    n = len(window) - 1
    batch = Batch(
        tokens=np.array(window[:-1], np.int32),
        positions=np.arange(n, dtype=np.int32),
        seq_starts=np.array([0, n], np.int32),
        context_lens=np.array([n], np.int32),
        block_tables=np.arange(-(-n // _BLOCK), dtype=np.int32)[None],
        logit_rows=np.arange(n, dtype=np.int32),
    )
    return to_array(runner.run(batch))


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    shifted: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return shifted
