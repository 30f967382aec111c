"""Scripts for a model that fills holes with what a test wants."""

from __future__ import annotations

from collections.abc import Callable

from codellama.server.settings import Settings
from fakes import ByteTokenizer, Script

TOLD = Settings(infill_order="psm")  # the order in which a script finds prefix and suffix


def fills(
    reply: Callable[[str, str], str | None], *, wait: Callable[[], None] = lambda: None
) -> Script:
    """A script that fills the hole between `prefix` and `suffix` with `reply(prefix, suffix)`."""
    tokenizer = ByteTokenizer()

    def script(tokens: tuple[int, ...]) -> int | None:
        if tokenizer.middle_id not in tokens:
            return None
        wait()
        pre, suf, mid = (
            tokens.index(mark)
            for mark in (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id)
        )
        prefix = tokenizer.decode(tokens[pre + 1 : suf])
        said = reply(prefix, tokenizer.decode_bare(tokens[suf + 1 : mid]))
        if said is None:
            return None
        ids = [*tokenizer.encode_bare(said), tokenizer.eot_id]
        done = len(tokens) - mid - 1
        return ids[done] if done < len(ids) else None

    return script
