"""Every exception of the package.

    CodeLlamaError
    ├── ConfigError        a settings file, a flag or a model configuration that cannot be honoured
    ├── CheckpointError    a model file that is damaged, incomplete or of the wrong kind
    ├── PromptError        text that cannot become a prompt
    ├── RequestError       a request that can never be served
    │   └── ContextTooLong
    ├── TrainingError      a training run that cannot go on
    ├── OutOfMemory        the key/value cache or the machine is too small
    ├── EngineFailed       a process with an engine in it cannot go on
    ├── SandboxError       the sandbox itself failed; a program that fails in it is a result
    │   └── SandboxUnavailable   this machine cannot isolate programs
    └── MissingExtra       an optional part of the package is not installed

A message says where, what was found and what was expected; `hint` says what to do.
"""

from __future__ import annotations


class CodeLlamaError(Exception):
    """Base of all errors a caller may want to catch.

    `hint` is one clause telling the reader what to do next; it is also attached as a note, so that
    a traceback shows it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint is not None:
            self.add_note(f"→ {hint}")


class ConfigError(CodeLlamaError):
    """A setting or a model configuration that cannot be honoured."""


class CheckpointError(CodeLlamaError):
    """A model file that is damaged, incomplete or not what it claims to be."""


class PromptError(CodeLlamaError):
    """Text or messages that cannot be turned into a prompt."""


class RequestError(CodeLlamaError):
    """A request that can never be served as it stands."""


class ContextTooLong(RequestError):
    """Prompt and answer do not fit the context."""


class TrainingError(CodeLlamaError):
    """A training run that cannot go on as it is set up."""


class OutOfMemory(CodeLlamaError):
    """The key/value cache, or the machine, is too small for what was asked."""


class EngineFailed(CodeLlamaError):
    """Another process, with an engine in it, said why it cannot go on."""


class SandboxError(CodeLlamaError):
    """The sandbox itself failed; a program that fails inside it is a result, not an error."""


class SandboxUnavailable(SandboxError):
    """This machine cannot isolate programs, so none is run. `missing` names what it lacks.

    The command line exits with code 3.
    """

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            "programs cannot be isolated here, so none is run: " + "; ".join(missing),
            hint="run this on Linux 6.7 or later, or where user namespaces are allowed "
            "(docs/sandbox.md)",
        )
        self.missing = missing


class MissingExtra(CodeLlamaError):
    """A feature needs an optional part of the package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the `{extra}` extra, which is not installed",
            hint=f"pip install 'codellama[{extra}]'",
        )
