"""Typing what was suggested needs no model."""

from __future__ import annotations

from codellama.lsp.cache import Entry, SuggestionCache


def cached(*texts: str, prefix: str = "x = ", suffix: str = "\n") -> SuggestionCache:
    cache = SuggestionCache()
    cache.put("a.py", Entry(prefix=prefix, suffix=suffix, texts=texts, is_complete=True))
    return cache


def test_the_same_place_gives_the_same_texts() -> None:
    found = cached("1", "2").find("a.py", "x = ", "\n")
    assert found is not None
    assert found.texts == ("1", "2")


def test_typing_along_gives_the_rest() -> None:
    found = cached("compute(a)", "other").find("a.py", "x = comp", "\n")
    assert found is not None
    assert found.texts == ("ute(a)",)
    assert found.is_same_suffix


def test_typing_something_else_gives_nothing() -> None:
    assert cached("compute(a)").find("a.py", "x = z", "\n") is None


def test_typing_all_of_it_gives_nothing() -> None:
    assert cached("compute").find("a.py", "x = compute", "\n") is None


def test_other_text_before_or_after_gives_nothing() -> None:
    cache = cached("compute")
    assert cache.find("a.py", "y = c", "\n") is None
    assert cache.find("a.py", "x = c", "\nmore") is None
    assert cache.find("b.py", "x = c", "\n") is None
    assert cache.find("a.py", "x =", "\n") is None


def test_brackets_that_the_editor_closed_do_no_harm() -> None:
    found = cached("f(a)").find("a.py", "x = f(", ")\n")
    assert found is not None
    assert found.texts == ("a)",)
    assert not found.is_same_suffix
    assert cached("f(a)").find("a.py", "x = ", ")\n") is None  # nothing was typed


def test_nothing_to_suggest_is_remembered_for_that_place_only() -> None:
    cache = cached()
    found = cache.find("a.py", "x = ", "\n")
    assert found is not None
    assert found.texts == ()
    assert cache.find("a.py", "x = 1", "\n") is None


def test_the_newest_answer_counts_and_the_oldest_go() -> None:
    cache = SuggestionCache(size=2)
    for prefix in ("a", "b", "c"):
        cache.put("a.py", Entry(prefix=prefix, suffix="", texts=("1",), is_complete=False))
    assert cache.find("a.py", "a", "") is None
    cache.put("a.py", Entry(prefix="c", suffix="", texts=("2",), is_complete=True))
    found = cache.find("a.py", "c", "")
    assert found is not None
    assert found.texts == ("2",)
    for name in ("b.py", "c.py"):
        cache.put(name, Entry(prefix="", suffix="", texts=("1",), is_complete=True))
    assert cache.find("a.py", "c", "") is None
    cache.forget("b.py")
    assert cache.find("b.py", "", "") is None
