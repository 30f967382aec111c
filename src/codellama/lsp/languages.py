"""The languages whose grammar is known, by the names that editors give them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from codellama.errors import MissingExtra

if TYPE_CHECKING:
    import tree_sitter


@dataclass(frozen=True, kw_only=True)
class Language:
    """What is to be known of a language beside its grammar.

    `scopes` are the nodes whose end is where a suggestion that began inside them ends;
    `definitions` those that give a name to something; `imports` those that bring names in.
    """

    name: str
    module: str
    function: str = "language"
    comment: str = "//"
    extensions: tuple[str, ...]
    scopes: frozenset[str]
    definitions: frozenset[str]
    imports: frozenset[str]
    indents: bool = False  # whether blocks are made by indentation

    def grammar(self) -> tree_sitter.Language:
        """The grammar, imported when first asked for.

        Raises:
            MissingExtra: the package's optional part for editors is not installed.
        """
        return _grammar(self.module, self.function)


@cache
def _grammar(module: str, function: str) -> tree_sitter.Language:
    try:
        import tree_sitter

        made = getattr(importlib.import_module(module), function)()
    except ImportError as error:
        raise MissingExtra("codellama lsp", "lsp") from error
    return tree_sitter.Language(made)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JS_SCOPES = (
    "function_declaration function_expression arrow_function method_definition class_declaration "
    "class class_body statement_block if_statement for_statement for_in_statement while_statement "
    "do_statement try_statement switch_statement switch_case switch_body object "
    "generator_function_declaration generator_function"
)
_JS_DEFINITIONS = (
    "function_declaration generator_function_declaration class_declaration method_definition "
)
_TS_MORE = "interface_declaration type_alias_declaration enum_declaration "
_C_SCOPES = (
    "function_definition compound_statement struct_specifier union_specifier enum_specifier "
    "field_declaration_list enumerator_list if_statement for_statement while_statement "
    "do_statement switch_statement case_statement initializer_list "
)

PYTHON = Language(
    name="python",
    module="tree_sitter_python",
    comment="#",
    extensions=(".py", ".pyi"),
    scopes=_words(
        "function_definition class_definition if_statement for_statement while_statement "
        "with_statement try_statement match_statement elif_clause else_clause except_clause "
        "finally_clause case_clause"
    ),
    definitions=_words("function_definition class_definition"),
    imports=_words("import_statement import_from_statement"),
    indents=True,
)

_ALL = (
    PYTHON,
    Language(
        name="javascript",
        module="tree_sitter_javascript",
        extensions=(".js", ".jsx", ".mjs", ".cjs"),
        scopes=_words(_JS_SCOPES),
        definitions=_words(_JS_DEFINITIONS),
        imports=_words("import_statement"),
    ),
    Language(
        name="typescript",
        module="tree_sitter_typescript",
        function="language_typescript",
        extensions=(".ts", ".mts", ".cts"),
        scopes=_words(_JS_SCOPES + " interface_body enum_body object_type"),
        definitions=_words(_JS_DEFINITIONS + _TS_MORE + "abstract_class_declaration"),
        imports=_words("import_statement"),
    ),
    Language(
        name="typescriptreact",
        module="tree_sitter_typescript",
        function="language_tsx",
        extensions=(".tsx",),
        scopes=_words(_JS_SCOPES + " interface_body enum_body object_type"),
        definitions=_words(_JS_DEFINITIONS + _TS_MORE + "abstract_class_declaration"),
        imports=_words("import_statement"),
    ),
    Language(
        name="c",
        module="tree_sitter_c",
        extensions=(".c", ".h"),
        scopes=_words(_C_SCOPES),
        definitions=_words(
            "function_definition struct_specifier union_specifier enum_specifier type_definition"
        ),
        imports=_words("preproc_include"),
    ),
    Language(
        name="cpp",
        module="tree_sitter_cpp",
        extensions=(".cc", ".cpp", ".cxx", ".hpp", ".hh"),
        scopes=_words(
            _C_SCOPES + "class_specifier namespace_definition declaration_list try_statement "
            "lambda_expression for_range_loop"
        ),
        definitions=_words(
            "function_definition struct_specifier class_specifier union_specifier enum_specifier "
            "type_definition alias_declaration"
        ),
        imports=_words("preproc_include using_declaration"),
    ),
    Language(
        name="java",
        module="tree_sitter_java",
        extensions=(".java",),
        scopes=_words(
            "class_declaration interface_declaration enum_declaration record_declaration "
            "method_declaration constructor_declaration class_body interface_body enum_body block "
            "constructor_body if_statement for_statement enhanced_for_statement while_statement "
            "do_statement try_statement switch_expression switch_block lambda_expression "
            "array_initializer"
        ),
        definitions=_words(
            "class_declaration interface_declaration enum_declaration record_declaration "
            "method_declaration constructor_declaration"
        ),
        imports=_words("import_declaration package_declaration"),
    ),
    Language(
        name="go",
        module="tree_sitter_go",
        extensions=(".go",),
        scopes=_words(
            "function_declaration method_declaration func_literal block if_statement "
            "for_statement expression_switch_statement type_switch_statement select_statement "
            "expression_case default_case communication_case type_case struct_type "
            "field_declaration_list interface_type literal_value"
        ),
        definitions=_words("function_declaration method_declaration type_spec"),
        imports=_words("import_declaration package_clause"),
    ),
    Language(
        name="rust",
        module="tree_sitter_rust",
        extensions=(".rs",),
        scopes=_words(
            "function_item impl_item trait_item mod_item struct_item enum_item block "
            "declaration_list field_declaration_list enum_variant_list match_expression "
            "match_block match_arm if_expression for_expression while_expression loop_expression "
            "closure_expression macro_definition"
        ),
        definitions=_words(
            "function_item struct_item enum_item trait_item type_item macro_definition "
            "function_signature_item"
        ),
        imports=_words("use_declaration extern_crate_declaration"),
    ),
    Language(
        name="shellscript",
        module="tree_sitter_bash",
        comment="#",
        extensions=(".sh", ".bash"),
        scopes=_words(
            "function_definition compound_statement if_statement elif_clause else_clause "
            "for_statement c_style_for_statement while_statement case_statement case_item do_group "
            "subshell"
        ),
        definitions=_words("function_definition"),
        imports=frozenset(),
    ),
)

_OTHER_NAMES = {"javascriptreact": "javascript", "bash": "shellscript", "sh": "shellscript",
                "tsx": "typescriptreact", "c++": "cpp", "zsh": "shellscript"}  # fmt: skip
_BY_NAME = {language.name: language for language in _ALL}
_BY_EXTENSION = {end: language for language in _ALL for end in language.extensions}


def find_language(language_id: str, path: str = "") -> Language | None:
    """The language an editor calls `language_id`, or that of a path; None where it is not known."""
    name = language_id.lower()
    found = _BY_NAME.get(_OTHER_NAMES.get(name, name))
    if found is None:
        found = next((_BY_EXTENSION[end] for end in _BY_EXTENSION if path.endswith(end)), None)
    return found


def extensions_like(language: Language) -> frozenset[str]:
    """The ends of file names whose definitions a file of this language may use."""
    groups = ({"c", "cpp"}, {"javascript", "typescript", "typescriptreact"})
    names = next((group for group in groups if language.name in group), {language.name})
    return frozenset(end for one in _ALL if one.name in names for end in one.extensions)
