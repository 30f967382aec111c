"""The paged cache's books: which block is free, who owns it, and what full blocks hold.

A block holds `block_size` consecutive tokens' keys and values. Only full blocks are shared, and a
full block is never written again, so a block that can be written has exactly one owner.

Full blocks are found again by content: a SHA-256 chained over the tokens of a block and all blocks
before it. A digest is only a place to look: before a block is shared, its tokens and those of
everything before it are compared, so that two contents can never be mixed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Digest = Callable[[bytes, bytes], bytes]


def sha256(parent: bytes, tokens: bytes) -> bytes:
    """The digest of a block: of its parent's digest and its tokens. Both lengths are fixed."""
    return hashlib.sha256(parent + tokens).digest()


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """What a full block holds: its tokens, after everything its parent holds.

    The root of a chain has no parent and no tokens; its digest is that of the scope, and chains of
    different scopes share nothing.
    """

    digest: bytes
    tokens: bytes  # int32, so comparing is one memcmp
    parent: Content | None

    @classmethod
    def root(cls, scope: bytes) -> Content:
        """The beginning of every chain in `scope`."""
        return cls(hashlib.sha256(b"scope" + scope).digest(), scope, None)

    def is_same(self, other: Content) -> bool:
        """Whether both hold the same tokens after the same tokens; digests are not trusted."""
        mine: Content | None = self
        theirs: Content | None = other
        while mine is not theirs:
            if mine is None or theirs is None or mine.tokens != theirs.tokens:
                return False
            mine, theirs = mine.parent, theirs.parent
        return True


class BlockPool:
    """Hands out the blocks of the cache, counts their owners and remembers what they hold.

    A block without owner is free. Free blocks that still hold published content can be shared
    again; they are the last to be handed out, the longest unused one first.
    """

    def __init__(self, n_blocks: int, block_size: int, *, digest: Digest = sha256) -> None:
        self.n_blocks = n_blocks
        self.block_size = block_size
        self._digest = digest
        self._owners = [0] * n_blocks
        self._blank = list(range(n_blocks - 1, -1, -1))  # free and empty, lowest on top
        self._idle: OrderedDict[int, None] = OrderedDict()  # free and published, oldest first
        self._contents: list[Content | None] = [None] * n_blocks
        self._found: dict[bytes, int] = {}  # digest -> the published block that holds it

    @property
    def n_free(self) -> int:
        """Blocks nobody owns, whether or not they still hold something."""
        return len(self._blank) + len(self._idle)

    @property
    def n_published(self) -> int:
        """Blocks that can be found by content, owned or not."""
        return len(self._found)

    def n_owners(self, block: int) -> int:
        """How many sequences have the block in their table."""
        return self._owners[block]

    def n_needed(self, n_tokens: int) -> int:
        """Blocks that hold `n_tokens` tokens."""
        return -(-n_tokens // self.block_size)

    def content(self, parent: Content, tokens: array[int]) -> Content:
        """The content of one full block of `tokens` after `parent`."""
        raw = tokens.tobytes()
        return Content(self._digest(parent.digest, raw), raw, parent)

    def contents(self, root: Content, tokens: array[int]) -> Iterator[Content]:
        """The contents of the full blocks of `tokens`, made one by one as they are asked for."""
        above = root
        for first in range(0, len(tokens) - self.block_size + 1, self.block_size):
            above = self.content(above, tokens[first : first + self.block_size])
            yield above

    def find(self, chain: Iterable[Content]) -> list[int]:
        """The published blocks that hold the beginning of `chain`, as far as it goes unbroken."""
        blocks: list[int] = []
        above: Content | None = None  # what the last block found holds
        for content in chain:
            block = self._found.get(content.digest)
            if block is None:
                break
            held = self._contents[block]
            assert held is not None, f"block {block} is listed by digest and holds nothing"
            # Usually the block's parent is the very content just found, which saves the long walk.
            is_next = above is not None and held.parent is above and held.tokens == content.tokens
            if not is_next and not held.is_same(content):
                break
            blocks.append(block)
            above = held
        return blocks

    def can_take(self, shared: Sequence[int], n_new: int, *, spare: int = 0) -> bool:
        """Whether `take` would succeed and leave `spare` blocks free."""
        revived = sum(1 for block in shared if not self._owners[block])
        return self.n_free - revived - n_new >= spare

    def take(self, shared: Sequence[int], n_new: int) -> list[int]:
        """Adds an owner to each of `shared` and to `n_new` free blocks; returns all of them.

        The caller asks `can_take` first.
        """
        for block in shared:
            if not self._owners[block]:
                del self._idle[block]
            self._owners[block] += 1
        return [*shared, *(self._allocate() for _ in range(n_new))]

    def _allocate(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            assert self._idle, "a block was taken from an empty pool"
            block, _ = self._idle.popitem(last=False)
            self._unpublish(block)
        self._owners[block] = 1
        return block

    def publish(self, block: int, content: Content) -> None:
        """Lets others find a block that its owner has filled. The first of equals stays listed."""
        assert self._owners[block], f"block {block} was published by nobody"
        if self._contents[block] is None and content.digest not in self._found:
            self._contents[block] = content
            self._found[content.digest] = block

    def forget(self, blocks: Iterable[int]) -> None:
        """Keeps owned blocks from being found again; their owners stay."""
        for block in blocks:
            assert self._owners[block], f"block {block} was forgotten without an owner"
            self._unpublish(block)

    def _unpublish(self, block: int) -> None:
        content = self._contents[block]
        if content is not None:
            del self._found[content.digest]
            self._contents[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one owner from each block of a table.

        The end of a table is reused before its beginning, which more prompts have in common.
        """
        for block in reversed(blocks):
            self._owners[block] -= 1
            assert self._owners[block] >= 0, f"block {block} was released more often than taken"
            if self._owners[block]:
                continue
            if self._contents[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None
