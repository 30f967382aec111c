"""Any checkpoint into a GGUF file of another number format, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codellama import checkpoint
from codellama.checkpoint.gguf_metadata import Metadata
from codellama.checkpoint.gguf_write import check_destination, save_gguf
from codellama.errors import CheckpointError, ConfigError
from codellama.quant.formats import Format, Tensor
from codellama.quant.mixes import MIXES, plan

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written. Bytes are those of all tensors; `formats` counts them."""

    path: Path
    src_bytes: int
    dst_bytes: int
    n_params: int
    formats: dict[Format, int]
    notes: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.dst_bytes / self.n_params


def quantize(
    src: str | Path,
    dst: str | Path,
    mix: str,
    *,
    name: str | None = None,
    overwrite: bool = False,
    allow_requantize: bool = False,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Writes the checkpoint `src` to the GGUF file `dst` with the formats of `mix`.

    Args:
        mix: one of `quant.mixes.MIXES`.
        name: what the file calls the model; None takes it from the path of `src`.
        overwrite: replace `dst` if it exists.
        allow_requantize: round numbers that were rounded before, which loses more than rounding
            the original would.
        n_threads: threads that round; None takes one per physical core.
        progress: called with the bytes read and their number, after each tensor.

    Raises:
        ConfigError: there is no such mix, or the configuration of `src` cannot be honoured.
        CheckpointError: `src` is not a whole checkpoint or is quantised already, or `dst` exists or
            cannot be written.
    """
    if mix not in MIXES:
        raise ConfigError(f"there is no format {mix!r}", hint=f"there are {', '.join(MIXES)}")
    dst = Path(dst)
    check_destination(dst, overwrite)
    reader = checkpoint.open(src)
    if dst.exists() and dst.samefile(reader.path):
        raise CheckpointError(
            f"{dst}: is the source itself, which would be lost", hint="choose another name"
        )
    found = plan(MIXES[mix], reader.config.tensor_shapes(), reader.config.n_layers)
    if not allow_requantize:
        _refuse_quantised(
            reader.path,
            {
                info.format
                for key, info in reader.infos.items()
                if info.format.is_quantised and info.format is not found.formats[key]
            },
        )
    src_bytes = sum(info.n_bytes for info in reader.infos.values())

    def counted() -> Iterator[tuple[str, Tensor]]:
        done = 0
        for key, tensor in reader.tensors():
            yield key, tensor
            done += tensor.n_bytes
            if progress is not None:
                progress(done, src_bytes)

    metadata = Metadata(
        name=reader.path.resolve().name.removesuffix(".gguf") if name is None else name,
        file_type=MIXES[mix].file_type,
        tokenizer=reader.tokenizer(),
        generation=reader.generation,
        chat_form=reader.chat_form,
    )
    notes = save_gguf(
        dst,
        reader.config,
        counted(),
        found.formats,
        metadata,
        overwrite=overwrite,
        n_threads=n_threads,
    )
    written = checkpoint.open(dst)
    formats: dict[Format, int] = {}
    for info in written.infos.values():
        formats[info.format] = formats.get(info.format, 0) + 1
    return Quantized(
        path=dst,
        src_bytes=src_bytes,
        dst_bytes=sum(info.n_bytes for info in written.infos.values()),
        n_params=reader.config.n_params,
        formats=formats,
        notes=(*reader.notes, *found.notes, *notes),
    )


def _refuse_quantised(path: Path, formats: set[Format]) -> None:
    if formats:
        raise CheckpointError(
            f"{path}: is quantised already ({', '.join(sorted(formats))}), and rounding its "
            "numbers a second time loses more than rounding the original would",
            hint="take the original, or say --allow-requantize",
        )
