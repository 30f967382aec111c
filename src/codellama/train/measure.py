"""What a model can do on held-out text: bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.model.transformer import Transformer
from codellama.train.batch import RowBatch, batch_loss
from codellama.train.chunks import MARGIN, cut
from codellama.train.corpus import Document
from codellama.train.data import Row, Sample, row
from codellama.train.infilling import Encoder
from codellama.train.loss import IGNORED

Score = Callable[[Sequence[Row]], float]  # rows -> their loss, summed over what is learned from


class BitsPerByte:
    """Left-to-right loss over parts of documents, in bits per byte of UTF-8.

    `n_parts` parts of at most `length` ids are taken at equal distances over all the documents.
    Every part is read on its own, after `<s>`; the end of a part is not predicted.
    """

    def __init__(
        self, documents: Sequence[Document], tokenizer: Encoder, length: int, n_parts: int
    ) -> None:
        texts = [part for d in documents for part in _parts(d.text, tokenizer, length)]
        self._samples, self.n_bytes = [], 0
        for text in texts[:: max(1, len(texts) // n_parts)][:n_parts]:
            ids = [tokenizer.bos_id, *tokenizer.encode(text)]
            if len(ids) <= length + 1:
                self._samples.append(Sample(ids))
                self.n_bytes += len(text.encode())
        self._length = length

    def __call__(self, score: Score, rows_at_once: int = 8) -> float:
        """The figure for the model that `score` gives the summed losses of."""
        nats = 0.0
        for i in range(0, len(self._samples), rows_at_once):
            rows = [row([sample], self._length) for sample in self._samples[i : i + rows_at_once]]
            assert all((r.labels != IGNORED).any() for r in rows), "every part has something to say"
            nats += score(rows)
        return nats / self.n_bytes / math.log(2)


def _parts(text: str, tokenizer: Encoder, length: int) -> list[str]:
    counts = [len(tokenizer.encode(line)) + 1 if line else 1 for line in text.split("\n")]
    return [text[a:b] for a, b, _ in cut(text, counts, length - MARGIN)]


def bits_per_byte(
    model: str | Path, documents: Sequence[Document], length: int = 512, n_parts: int = 512
) -> float:
    """The figure of a saved model over `documents`, in float32."""
    reader = checkpoint.open(resolve(model))
    loaded = Transformer(reader.config)
    parameters = dict(loaded.named_parameters())
    with torch.no_grad():
        for name, tensor in reader.tensors():
            parameters[name].copy_(torch.from_numpy(tensor.to_float32().copy()))

    @torch.no_grad()
    def score(rows: Sequence[Row]) -> float:
        return float(batch_loss(loaded, RowBatch.of(rows)))

    return BitsPerByte(documents, reader.tokenizer(), length, n_parts)(score)
