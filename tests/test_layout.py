"""What no linter checks: lengths, docstrings, cycles of files, and which file may name what."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfrag.reflection import REFLECTION_TOKENS

SOURCE = Path(__file__).parents[1] / "src" / "selfrag"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

MAX_FILE, MAX_FUNCTION = 400, 60  # code lines: without blank lines, comments and docstrings
# Bounds that only shrink: lower them when the tree allows it.
MAX_PARAMETERS = 8
MAX_CYCLIC_FILES = 0  # to be 0
MAX_CHAT_TEMPLATE_FILES = 0

CONTROL_STRINGS = (*map(str, REFLECTION_TOKENS), "### Instruction", "### Response")
MAY_SPELL = {SOURCE / name for name in ("reflection.py", "prompt.py", "released.py")}
CHAT_TEMPLATES = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "[INST]")

Function = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def test_there_is_source_to_check():
    assert len(FILES) > 50
    assert SOURCE / "reflection.py" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_are_short_and_documented(path):
    lines = _code_lines(path)
    assert len(lines) <= MAX_FILE
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(TREES[path]), "a module says what it is"
    for node in _functions(path):
        length = sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
        assert length <= MAX_FUNCTION, f"{node.name} has {length} code lines"


def test_code_lines_are_those_without_docstrings_comments_and_blanks(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        '"""Two\nlines."""\n\nx = """a\n\nb"""  # why\n# not\n\n\ndef f():\n    """Doc."""\n'
    )
    # Counted: the three lines of the string that is a value, and the line of `def`.
    assert _code_lines(path, ast.parse(path.read_text())) == {4, 5, 6, 10}


def test_control_strings_are_spelt_in_three_modules_only():
    strings = [(path, each) for path in set(FILES) - MAY_SPELL for each in _strings(path)]
    assert len(strings) > 1000
    for path, string in strings:
        assert not any(each in string for each in CONTROL_STRINGS), (path, string)


def test_chat_templates_are_spelt_in_the_prompt_module_only():
    spelling = {
        path
        for path in set(FILES) - {SOURCE / "prompt.py"}
        if any(each in string for string in _strings(path) for each in CHAT_TEMPLATES)
    }
    assert len(spelling) <= MAX_CHAT_TEMPLATE_FILES, spelling


def test_no_signature_is_wide():
    wide = [
        (path.relative_to(SOURCE), node.name, _n_parameters(node))
        for path in FILES
        for node in _functions(path)
        if _n_parameters(node) > MAX_PARAMETERS
    ]
    assert not wide


def test_the_command_line_libraries_are_imported_in_the_command_line_alone():
    outside = [path for path in FILES if SOURCE / "cli" not in path.parents]
    assert outside
    assert not [path for path in outside if _imported(path) & {"typer", "rich", "click"}]


def test_a_command_says_one_passage_and_two_passages():
    # By `text.counted`; a constant is in capitals.
    things = "passages|questions|rows|files|records|segments|labels|queries"
    fixed = re.compile(rf"\{{[^{{}}]*[a-z][^{{}}]*\}} (?:{things})\b")
    assert fixed.search('f"{n} rows"')
    inside = [path for path in FILES if SOURCE / "cli" in path.parents]
    assert not [path for path in inside if fixed.search(path.read_text(encoding="utf-8"))]


def test_locks_are_not_those_of_one_system():
    assert not [path for path in FILES if "fcntl" in _imported(path)]


def test_nothing_is_printed_by_the_library():
    printing = [
        (path, node.lineno)
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing


def test_no_files_import_each_other_in_a_circle():
    cyclic = _cyclic({_module(path): _own_imports(path) for path in FILES})
    assert len(cyclic) <= MAX_CYCLIC_FILES, sorted(cyclic)


def test_a_circle_of_imports_is_found():
    assert _cyclic({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}
    assert _cyclic({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def _code_lines(path: Path, tree: ast.Module | None = None) -> set[int]:
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for docstring in _docstring_nodes(tree or TREES[path]):
        lines.difference_update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def _docstring_nodes(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0].value


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(TREES[path]) if isinstance(node, Function))


def _n_parameters(node: Function) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([each for each in given if each.arg not in {"self", "cls"}])


def _strings(path: Path) -> set[str]:
    docstrings = {id(node) for node in _docstring_nodes(TREES[path])}
    return {
        node.value
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
    }


def _imported(path: Path) -> set[str]:
    """The top packages that a file names in its imports, wherever they are."""
    nodes = list(ast.walk(TREES[path]))
    names = [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def _module(path: Path) -> str:
    parts = ("selfrag", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {_module(path) for path in FILES}


def _own_imports(path: Path) -> set[str]:
    """Our modules that a file imports, inside functions too; a name may be a module itself."""
    found: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{each.name}" for each in node.names}
            # `from selfrag.cli import app` takes the module app, not what the package holds.
            found.update(inner & MODULES or {node.module})
    return (found & MODULES) - {_module(path)}


def _cyclic(graph: dict[str, set[str]]) -> set[str]:
    """The nodes that lie on a circle: what is left when ends are taken off, from both sides."""
    left = dict(graph)
    while True:
        ends = {name for name, used in left.items() if not used & left.keys()}
        ends |= left.keys() - set().union(*left.values()) if left else set()
        if not ends:
            return set(left)
        left = {name: used for name, used in left.items() if name not in ends}
