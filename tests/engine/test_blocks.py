"""The books of the cache: owners, sharing by content, and what is given up first."""

from __future__ import annotations

from array import array

import pytest

from codellama.engine.blocks import BlockPool, Content, sha256

ROOT = Content.root(b"")

with_asserts = pytest.mark.skipif(not __debug__, reason="python -O drops asserts")


def chain(pool: BlockPool, *blocks: tuple[int, ...], root: Content = ROOT) -> list[Content]:
    contents, parent = [], root
    for tokens in blocks:
        parent = pool.content(parent, array("i", tokens))
        contents.append(parent)
    return contents


def filled(pool: BlockPool, contents: list[Content]) -> list[int]:
    blocks = pool.take((), len(contents))
    for block, content in zip(blocks, contents, strict=True):
        pool.publish(block, content)
    return blocks


def test_blocks_are_taken_and_come_back() -> None:
    pool = BlockPool(4, 2)
    first = pool.take((), 3)
    assert len(set(first)) == 3
    assert pool.n_free == 1
    assert not pool.can_take((), 2)
    assert pool.can_take((), 1)
    assert not pool.can_take((), 1, spare=1)
    pool.release(first)
    assert pool.n_free == 4
    assert sorted(pool.take((), 4)) == [0, 1, 2, 3]


def test_needed_blocks_are_rounded_up() -> None:
    pool = BlockPool(4, 16)
    assert [pool.n_needed(n) for n in (0, 1, 16, 17, 32, 33)] == [0, 1, 1, 2, 2, 3]


def test_content_is_found_while_owned_and_after() -> None:
    pool = BlockPool(4, 2)
    blocks = filled(pool, chain(pool, (1, 2), (3, 4)))
    again = chain(pool, (1, 2), (3, 4), (5, 6))
    assert pool.find(again) == blocks
    shared = pool.take(blocks, 0)
    assert [pool.n_owners(b) for b in shared] == [2, 2]
    pool.release(blocks)
    pool.release(shared)
    assert pool.n_free == 4
    assert pool.find(again) == blocks
    assert pool.find(chain(pool, (1, 2), (3, 5))) == blocks[:1]
    assert pool.find(chain(pool, (3, 4))) == []
    pool.take(blocks, 0)
    assert pool.n_free == 2


def test_shared_free_blocks_count_against_what_can_be_taken() -> None:
    pool = BlockPool(3, 2)
    blocks = filled(pool, chain(pool, (1, 2), (3, 4)))
    pool.release(blocks)
    assert pool.can_take(blocks, 1)
    assert not pool.can_take(blocks, 2)
    assert pool.can_take(blocks[:1], 2)
    assert pool.can_take((), 3)


def test_the_longest_unused_content_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(4, 2)
    old, new = chain(pool, (1, 1), (2, 2)), chain(pool, (7, 7), (8, 8))
    old_blocks, new_blocks = filled(pool, old), filled(pool, new)
    pool.release(old_blocks)
    pool.release(new_blocks)
    assert pool.take((), 1) == [old_blocks[1]]
    assert pool.find(old) == old_blocks[:1]
    assert pool.take((), 1) == [old_blocks[0]]
    assert pool.find(old) == []
    assert pool.find(new) == new_blocks
    assert pool.n_published == 2


def test_empty_blocks_go_before_cached_ones() -> None:
    pool = BlockPool(3, 2)
    cached = filled(pool, chain(pool, (1, 1)))
    pool.release(cached)
    pool.take((), 2)
    assert pool.find(chain(pool, (1, 1))) == cached


def test_the_first_of_equals_stays_listed() -> None:
    pool = BlockPool(4, 2)
    first = filled(pool, chain(pool, (1, 2)))
    second = filled(pool, chain(pool, (1, 2)))
    assert pool.find(chain(pool, (1, 2))) == first
    pool.release(second)
    assert pool.find(chain(pool, (1, 2))) == first
    assert pool.n_published == 1


def test_a_continuation_of_the_unlisted_twin_is_found() -> None:
    pool = BlockPool(8, 2)
    listed = filled(pool, chain(pool, (1, 2)))
    twin = filled(pool, chain(pool, (1, 2), (3, 4)))
    assert pool.find(chain(pool, (1, 2), (3, 4))) == [listed[0], twin[1]]


def test_scopes_share_nothing() -> None:
    pool = BlockPool(4, 2)
    filled(pool, chain(pool, (1, 2), root=Content.root(b"a")))
    assert pool.find(chain(pool, (1, 2), root=Content.root(b"b"))) == []
    assert pool.find(chain(pool, (1, 2), root=Content.root(b"a"))) != []


def test_forgotten_content_is_not_found() -> None:
    pool = BlockPool(4, 2)
    blocks = filled(pool, chain(pool, (1, 2), (3, 4)))
    pool.forget(blocks)
    assert pool.find(chain(pool, (1, 2))) == []
    pool.release(blocks)
    assert pool.n_free == 4


@pytest.mark.parametrize("n_bytes", [0, 1])
def test_equal_digests_are_told_apart(n_bytes: int) -> None:
    pool = BlockPool(64, 2, digest=lambda parent, tokens: sha256(parent, tokens)[:n_bytes])
    for i in range(30):
        filled(pool, chain(pool, (i, i), (9, 9)))
    for i in range(40):
        wanted = chain(pool, (i, i), (9, 9))
        for block, content in zip(pool.find(wanted), wanted, strict=False):
            held = pool._contents[block]
            assert held is not None
            assert held.is_same(content)
    # The same tokens after other tokens are another content.
    one, other = chain(pool, (1, 1), (9, 9))[1], chain(pool, (2, 2), (9, 9))[1]
    assert not one.is_same(other)


def test_equal_digests_of_blocks_after_the_same_blocks_are_told_apart() -> None:
    # The digest says how deep a block is and nothing else.
    pool = BlockPool(8, 2, digest=lambda parent, tokens: bytes([parent[0] + 1 & 0xFF]))
    blocks = filled(pool, chain(pool, (1, 1), (2, 2), (3, 3)))
    assert pool.find(chain(pool, (1, 1), (2, 2), (3, 3))) == blocks
    assert pool.find(chain(pool, (1, 1), (2, 2), (9, 9))) == blocks[:2]
    assert pool.find(chain(pool, (1, 1), (9, 9), (3, 3))) == blocks[:1]
    assert pool.find(chain(pool, (9, 9), (2, 2), (3, 3))) == []


def test_a_chain_and_its_beginning_are_not_the_same() -> None:
    pool = BlockPool(4, 2)
    short, long = chain(pool, (1, 1)), chain(pool, (1, 1), (1, 1))
    assert not short[0].is_same(long[1])
    assert not long[1].is_same(short[0])
    assert long[0].is_same(short[0])


@with_asserts
def test_mistakes_in_the_books_are_caught() -> None:
    pool = BlockPool(2, 2)
    blocks = pool.take((), 1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(blocks)
    with pytest.raises(AssertionError, match="published by nobody"):
        BlockPool(2, 2).publish(0, ROOT)
    with pytest.raises(AssertionError, match="empty pool"):
        BlockPool(2, 2).take((), 3)
