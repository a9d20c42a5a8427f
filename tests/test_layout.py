"""What no linter holds: lengths, module docstrings, and where the format is spelt."""

import ast
from pathlib import Path

import pytest

from selfrag.reflection import REFLECTION_TOKENS

SOURCE = Path(__file__).parents[1] / "src" / "selfrag"
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_are_short_and_documented(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    if text.strip():
        assert ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_surface_strings_are_spelt_in_two_modules_only():
    allowed = {SOURCE / "reflection.py", SOURCE / "prompt.py"}
    spelt = [str(token) for token in REFLECTION_TOKENS] + ["### Instruction", "### Response"]
    for path in set(FILES) - allowed:
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        } - _docstrings(path)
        for string in strings:
            assert not any(surface in string for surface in spelt), (path, string)


def _docstrings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    return {ast.get_docstring(node, clean=False) or "" for node in nodes}
