"""What is shown leaves a file that parsed parsing, and ends with the scope it began in."""

from __future__ import annotations

import ast
import random
import warnings

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")

import tree_sitter

from codellama.lsp.finish import Place, finish, still_fits
from codellama.lsp.languages import find_language
from codellama.lsp.overlap import repeats_first_line
from codellama.lsp.shape import shape_at
from codellama.lsp.syntax import Syntax, python_parses

# The cursor is at ¦; each file parses without it.
FILES = {
    "python": ["def f(a, b):\n    x = a¦\n    return x\n", "import os\n\n¦\n\nprint(os)\n",
               "class A:\n    def f(self):\n        ¦\n        pass\n\n    def g(self): ...\n",
               "x = [\n    1,\n    ¦\n]\n", "f(a¦)\n", "s = 'a¦'\n", "x = 1  # so¦\n"],
    "javascript": ["function f(a) {\n  const x = a;\n  ¦\n  return x;\n}\n", "f(a, ¦);\n"],
    "typescript": ["interface A { x: number }\nfunction f(a: A): number {\n  ¦\n}\n"],
    "typescriptreact": ["const A = () => <div>{x}¦</div>;\n"],
    "c": ["#include <stdio.h>\nint main(void) {\n  int x = 1;\n  ¦\n  return x;\n}\n"],
    "cpp": ["#include <vector>\nnamespace n {\nclass A {\n  int f() {\n    ¦\n  }\n};\n}\n"],
    "java": ["class A {\n  int f(int a) {\n    ¦\n    return a;\n  }\n}\n"],
    "go": ["package main\n\nfunc f(a int) int {\n\t¦\n\treturn a\n}\n"],
    "rust": ["fn f(a: i32) -> i32 {\n    ¦\n    a\n}\n"],
    "shellscript": ["f() {\n  ¦\n  echo done\n}\n"],
}  # fmt: skip
PLACES = [pytest.param(name, text, id=f"{name}-{i}")
          for name, texts in FILES.items() for i, text in enumerate(texts)]  # fmt: skip
SOUP = ["(", ")", "{", "}", "[", "]", ":", ";", ",", "'", '"', '"""', "\n", "\n    ", "\n  ", " ",
        "if", "x", "return x", "x = 1", "def g():", "else", "//", "#", "=", "while (x) {", "\n}",
        "f(x)", "class B", "+", "\\", "é", "😀", "return x;", "x;", "->", "fi", "done"]  # fmt: skip


def place(name: str, text: str) -> Place:
    prefix, suffix = text.split("¦")
    language = find_language(name)
    assert language is not None
    syntax = Syntax(language, prefix, suffix)
    inside = syntax.inside()
    shape = shape_at(prefix, suffix, inside, max_lines=20, max_tokens=128)
    return Place(prefix=prefix, suffix=suffix, shape=shape, syntax=syntax, inside=inside)


def parses_alone(name: str, text: str) -> bool:
    """Whether a text parses, from nothing; Python's by the interpreter as well."""
    language = find_language(name)
    assert language is not None
    tree = tree_sitter.Parser(language.grammar()).parse(text.encode())
    if tree.root_node.has_error:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that mean nothing
            return name != "python" or bool(ast.parse(text))
    except SyntaxError:
        return False


@pytest.mark.parametrize(("name", "text"), PLACES)
def test_any_text_leaves_a_file_that_parsed_parsing(name: str, text: str) -> None:
    here = place(name, text)
    assert here.syntax is not None
    assert here.syntax.parses, "the example itself"
    chance = random.Random(text)
    n_shown = 0
    for _ in range(150):
        soup = "".join(chance.choices(SOUP, k=chance.randint(1, 9)))
        shown = finish(soup, here, is_whole=chance.random() < 0.5)
        if shown is None:
            continue
        n_shown += 1
        assert soup.startswith(shown)
        assert parses_alone(name, here.prefix + shown + here.suffix), (soup, shown)
        assert not repeats_first_line(shown, here.suffix)
    assert n_shown, "nothing was ever shown"


@pytest.mark.parametrize(
    ("name", "text", "written", "shown"),
    [
        ("python", "def f():\n    ¦\n", "return 1\n\n\ndef g():\n    return 2\n", "return 1"),
        ("python", "def f(a):\n    if a:\n        ¦\n    return a\n",
         "a += 1\n    a += 2\n", "a += 1"),
        ("python", "¦\n", "def f():\n    return 1\n\n\ndef g():\n    return 2\n",
         "def f():\n    return 1"),
        ("c", "int f(void) {\n  ¦\n}\n", "return 1;\n}\n\nint g(void) {\n  return 2;\n",
         "return 1;"),
        ("javascript", "f(() => {\n  ¦\n});\n", "g();\n});\nh();\n", "g();"),
        ("go", "package a\n\nfunc f() int {\n\t¦\n}\n", "return 1\n}\n\nfunc g() {\n", "return 1"),
    ],
)  # fmt: skip
def test_the_end_of_the_scope_is_the_end(name: str, text: str, written: str, shown: str) -> None:
    assert finish(written, place(name, text), is_whole=False) == shown


def test_a_bracket_that_stands_there_is_not_closed_twice() -> None:
    assert finish("x, y)", place("python", "def f(x, y):\n    print(¦)\n"), is_whole=True) == "x, y"


def test_what_was_broken_off_loses_its_last_line() -> None:
    here = place("python", "def f():\n    ¦\n")
    assert finish("x = 1\n    y = 1", here, is_whole=False) == "x = 1"
    assert finish("x = 1\n    y = 1", here, is_whole=True) == "x = 1\n    y = 1"


def test_a_file_that_does_not_parse_gets_no_worse_and_better_if_it_can() -> None:
    here = place("python", "def f(x):\n    print(x¦\n    return x\n")
    assert here.syntax is not None
    assert not here.syntax.parses
    assert finish(".y)", here, is_whole=True) == ".y)"
    assert finish(".y)]]", here, is_whole=True) == ".y)"


def test_python_says_no_where_the_grammar_says_yes() -> None:
    here = place("python", "def f():\n    x = 1\n    ¦\n")
    assert here.syntax is not None
    made = here.syntax.insert("print 'a'")  # tree-sitter knows Python 2 as well
    assert made.n_errors == 0
    assert not here.syntax.accepts(made)


def test_long_python_files_are_judged_by_the_statements_that_change() -> None:
    filler = "".join(f"def f{i}(a):\n    return a + {i}\n\n\n" for i in range(800))
    here = place("python", filler + "def last(x):\n    ¦\n    return x\n\n\n" + filler)
    assert here.syntax is not None
    for text, fits in (("x = 1", True), ("x = (", False), ("if x:", False), ("print 'a'", False)):
        made = here.syntax.insert(text)
        assert here.syntax.accepts(made) == fits == python_parses(made.text)


def test_a_tree_that_follows_edits_is_the_tree_of_the_text() -> None:
    language = find_language("python")
    assert language is not None
    chance = random.Random(3)
    text = "def f(a):\n    return a\n"
    syntax = None
    for _ in range(60):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.randint(0, 3))
        text = text[:at] + chance.choice(SOUP) + text[end:]
        cut = chance.randrange(len(text) + 1)
        syntax = Syntax(language, text[:cut], text[cut:], syntax)
        alone = Syntax(language, text[:cut], text[cut:])
        assert str(syntax._tree.root_node) == str(alone._tree.root_node)


@pytest.mark.parametrize(
    ("text", "inside"),
    [("x = 1¦", "code"), ("# a¦b\n", "comment"), ("s = 'a¦b'\n", "string"), ("s = 'ab'¦\n", "code"),
     ('def f():\n    """Doc¦"""\n', "string"), ("# a\n¦\n", "code")],
)  # fmt: skip
def test_where_the_cursor_is(text: str, inside: str) -> None:
    assert place("python", text).inside == inside


def test_without_a_grammar_the_text_rules_hold() -> None:
    prefix, suffix = "def f:\n  ", "\n  end\n"
    shape = shape_at(prefix, suffix, "code", max_lines=20, max_tokens=128)
    here = Place(prefix=prefix, suffix=suffix, shape=shape, syntax=None)
    assert finish("a\n  b\n  end\nc", here, is_whole=True) == "a\n  b"
    assert finish("a\nb", here, is_whole=True) == "a"


def test_the_rest_of_what_is_being_typed_is_not_cut_anew() -> None:
    here = place("python", "def f(x):\n    if x:¦\n")
    rest = "\n        return 1\n    return 2"
    assert still_fits(rest, here, is_same_suffix=True) == rest
    assert finish(rest, here, is_whole=True) != rest  # it would end with the `if`


def test_the_rest_is_not_shown_where_it_would_break_the_file() -> None:
    here = place("python", "x = 1¦\n")
    assert still_fits(" +", here, is_same_suffix=True) is None


def test_a_bracket_that_the_editor_closed_meanwhile_is_left_out() -> None:
    assert still_fits("a)", place("python", "f(¦)\n"), is_same_suffix=False) == "a"
