"""Any checkpoint into a Hugging Face folder, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from codellama import checkpoint
from codellama.checkpoint.save import MAX_SHARD_BYTES, Dtype, save_hf
from codellama.quant.formats import Tensor

Progress = Callable[[int, int], None]


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Writes the checkpoint `src` to `dst` as a Hugging Face folder, and returns notes about it.

    Memory holds one tensor at a time. `dtype`, `overwrite` and `max_shard_bytes` are those of
    `save_hf`; `progress` is called with the tensors done and their number.

    Raises:
        CheckpointError: `src` is not a whole checkpoint, or `dst` cannot be written.
        ConfigError: the configuration of `src` cannot be honoured.
    """
    reader = checkpoint.open(src)
    n_tensors = len(reader.infos)

    def counted() -> Iterator[tuple[str, Tensor]]:
        for done, pair in enumerate(reader.tensors(), 1):
            yield pair
            if progress is not None:
                progress(done, n_tensors)

    notes = save_hf(
        Path(dst),
        reader.config,
        counted(),
        reader.tokenizer(),
        generation=reader.generation,
        chat_form=reader.chat_form,
        dtype=dtype,
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
    )
    return (*reader.notes, *notes)
