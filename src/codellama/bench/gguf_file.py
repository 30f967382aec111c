"""A checkpoint of any kind as one GGUF file: the same bytes for every engine that is measured."""

from __future__ import annotations

from pathlib import Path

from codellama.checkpoint.gguf_metadata import Metadata
from codellama.checkpoint.gguf_write import save_gguf
from codellama.checkpoint.reader import Reader
from codellama.quant.formats import Format


def gguf_of(reader: Reader, path: Path, format: Format | None) -> None:
    """Writes an open checkpoint as GGUF, all matrices in `format` (None: as they are stored).

    Raises:
        CheckpointError: a row is not a whole number of blocks, the format is only read, or as
            `save_gguf`.
    """
    formats = {
        # Every reader of GGUF expects float32 of vectors.
        name: Format.F32 if len(info.shape) == 1 else info.format if format is None else format
        for name, info in reader.infos.items()
    }
    metadata = Metadata(
        name="for measuring",
        file_type=None,
        tokenizer=reader.tokenizer(),
        generation=reader.generation,
        chat_form=reader.chat_form,
    )
    save_gguf(path, reader.config, reader.tensors(), formats, metadata)
