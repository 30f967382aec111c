"""What every checkpoint format gives, and the ledger that accounts for each of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from codellama.checkpoint.files import quoted
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor, n_bytes

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

ChatForm = Literal["inst", "step"]
Kind = Literal["hf", "meta", "gguf"]

_SHOWN = 5


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its file's header describes it."""

    format: Format
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return n_bytes(self.format, self.shape)


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Where sequences begin and end, as the files say; nothing is filled in."""

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()


class Reader(Protocol):
    """An open checkpoint. Opening has read headers only and has matched every name and shape."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def generation(self) -> GenerationDefaults: ...

    @property
    def chat_template(self) -> str | None:
        """The template in the files: shown to people, never executed."""
        ...

    @property
    def chat_form(self) -> ChatForm | None:
        """The chat form the files speak of, or None: a base model, or files that do not say."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was decided for the user, and what was skipped: one sentence each."""
        ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every parameter by our name, from the headers alone."""
        ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter exactly once, by our name and with rotary pairs as halves of a head.

        A tensor's bytes are read when it is asked for, so memory holds no more than the caller
        keeps.

        Raises:
            CheckpointError: the file changed, cannot be read, or does not hold what it promised.
        """
        ...

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of this checkpoint."""
        ...


def chat_form_of(template: str | None, *, has_step: bool) -> ChatForm | None:
    """The chat form that a template's text, or else the tokenizer's `<step>` piece, speaks of.

    The template is only searched for the marks of the two forms.
    """
    if template is not None and "[INST]" in template:
        return "inst"
    if has_step or (template is not None and "<step>" in template):
        return "step"
    return None


@dataclass
class Ledger:
    """Loaded + deliberately skipped = everything in the file, and each parameter filled once.

    First every entry of the headers is entered with `plan`, `skip` or `unknown`, then `check` says
    whether the model is complete; `stream` finally watches the tensors go by.

    Args:
        where: the file or folder, for messages.
        config: decides which parameters there are, and their shapes.
        n_entries: how many tensors the headers list. A config that promises more layers than that
            is refused before a table of its parameters is made.
    """

    where: str
    config: ModelConfig
    n_entries: int
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> the file's names
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _planned: dict[str, str] = field(default_factory=dict)  # our name -> the file's
    _extra: list[str] = field(default_factory=list)
    _doubled: list[str] = field(default_factory=list)
    _misshapen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.config.n_layers > self.n_entries:
            raise CheckpointError(
                f"{self.where}: the configuration promises {self.config.n_layers} layers, "
                f"and there are only {self.n_entries} tensors"
            )
        self._shapes = self.config.tensor_shapes()

    def plan(self, name: str, shape: Sequence[int], source: str | None = None) -> None:
        """Enters a tensor that will fill parameter `name`; `source` is what the file calls it."""
        source = name if source is None else source
        expected = self._shapes.get(name)
        if expected is None:
            self._extra.append(source)
        elif name in self._planned:
            self._doubled.append(source)
        else:
            self._planned[name] = source
            if tuple(shape) != expected:
                found = quoted(list(shape))
                self._misshapen.append(f"{source} is {found} instead of {list(expected)}")

    def skip(self, source: str, reason: str) -> None:
        """Enters a tensor that is left out on purpose."""
        self.skipped.setdefault(reason, []).append(source)

    def unknown(self, source: str) -> None:
        """Enters a tensor that no parameter asks for."""
        self._extra.append(source)

    def check(self) -> None:
        """Raises CheckpointError unless the entries fill every parameter once, in its shape."""
        missing = [name for name in self._shapes if name not in self._planned]
        model = f"a {self.config.n_layers}-layer model"
        problems = [
            (missing, f"is missing {_tensors(missing)} of {model}: {_some(missing)}"),
            (self._extra, f"has {_tensors(self._extra)} that {model} does not: "
                          f"{_some([quoted(name) for name in self._extra])}"),
            (self._doubled, f"has {_tensors(self._doubled)} twice: "
                            f"{_some([quoted(name) for name in self._doubled])}"),
            (self._misshapen, f"has {_tensors(self._misshapen)} of the wrong shape: "
                              f"{_some(self._misshapen)}"),
        ]  # fmt: skip
        found = [text for names, text in problems if names]
        if not found:
            return
        hint = "the configuration and the weights belong to different models, or a file is missing"
        if missing == ["lm_head.weight"]:
            hint = "if the model's embeddings are tied, the configuration must say so"
        raise CheckpointError(f"{self.where}: " + "; ".join(found), hint=hint)

    def notes(self) -> tuple[str, ...]:
        """One sentence for each reason why tensors were skipped."""
        return tuple(
            f"skipped {_tensors(names)} ({reason}): {_some([quoted(name) for name in names])}"
            for reason, names in self.skipped.items()
        )

    def stream(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Passes the tensors on; raises CheckpointError unless each came once, in its shape."""
        due = dict(self._shapes)
        for name, tensor in tensors:
            expected = due.pop(name, None)
            if expected is None:
                state = "a second time" if name in self._shapes else "though nothing asks for it"
                raise CheckpointError(f"{self.where}: {quoted(name)} was given {state}")
            if tensor.shape != expected:
                raise CheckpointError(
                    f"{self.where}: {name} is {list(tensor.shape)} instead of {list(expected)}"
                )
            yield name, tensor
        if due:
            raise CheckpointError(
                f"{self.where}: {_tensors(list(due))} never came: {_some(list(due))}"
            )


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
