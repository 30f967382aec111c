"""Text to ids and back: the tokenizer, infilling prompts, chat prompts, stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codellama.text.chat import chat_ids, chat_stop_id, detect_chat_form, has_reserved_tags
    from codellama.text.infill import infill_ids, split_fill_me
    from codellama.text.stops import StopFilter
    from codellama.text.tokenizer import Tokenizer

__all__ = [
    "StopFilter",
    "Tokenizer",
    "chat_ids",
    "chat_stop_id",
    "detect_chat_form",
    "has_reserved_tags",
    "infill_ids",
    "split_fill_me",
]

_HOMES = {
    "StopFilter": "stops",
    "Tokenizer": "tokenizer",
    "chat_ids": "chat",
    "chat_stop_id": "chat",
    "detect_chat_form": "chat",
    "has_reserved_tags": "chat",
    "infill_ids": "infill",
    "split_fill_me": "infill",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
