"""What README.md and the pages of the site show, run to the letter, and the scripts of examples/.

A block of `sh` or `python` runs, in the order of its page and in one folder, unless the line above
it says `<!-- not run: why -->`. A block of `text` right after one is what it prints. What a script
prints is in its docstring, indented; `…` stands for anything.
"""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from chat_server import chat_reply, chat_server
from selfrag.open.indexes import demo_index_dir

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:^(<!-- not run: [^\n]+-->)\n)?^```(sh|python)\n(.*?)^```(?:\s*^```text\n(.*?)^```)?",
    re.M | re.S,
)
# Not the generated pages, whose Python is signatures.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {
    path.name: [
        (kind, code, printed)
        for kept, kind, code, printed in BLOCK.findall(path.read_text(encoding="utf-8"))
        if not kept
    ]
    for path in PAGES
}

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WITHOUT_DEFAULTS = {"train_tiny.py"}  # makes its own model
REAL = (
    pytest.mark.real,
    pytest.mark.skipif(
        not demo_index_dir().is_dir(), reason="the demo index is not built; run `selfrag demo`"
    ),
)


def run(command, folder):
    scripts = Path(sys.executable).parent
    path = f"{scripts}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "COLUMNS": "100", "PATH": path},
        capture_output=True,
        text=True,
    )


def test_the_front_page_and_the_first_how_tos_show_what_can_be_run():
    for page in ("README.md", "index.md", "documents.md", "check.md"):
        assert {kind for kind, _, _ in SHOWN[page]} == {"sh", "python"}, page
    for page in ("README.md", "check.md"):
        assert all(printed for _, _, printed in SHOWN[page]), page


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=REAL) for page, blocks in SHOWN.items() if blocks]
)
def test_what_a_page_shows_runs_and_prints_what_it_says(page, tmp_path):
    for kind, code, printed in SHOWN[page]:
        command = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = run([*command, code], tmp_path)
        assert done.returncode == 0, (code, done.stderr)
        if printed:
            assert done.stdout.split() == printed.split()


def missing_packages(tree):
    """The packages that a script imports and that are not installed."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    return sorted(
        name for name in {each.partition(".")[0] for each in names} if not find_spec(name)
    )


def promised(docstring):
    """What a docstring says that its script prints, as an expression for the words of it."""
    indented = re.findall(r"^    (.*)$", docstring, re.M)
    printed = [line for line in indented if "python examples/" not in line]
    return re.escape(" ".join(" ".join(printed).split())).replace("…", ".*?")


def copies(body):
    """A chat model that says the passage that it is shown."""
    shown = body["messages"][-1]["content"]
    return chat_reply(re.search(r"(Ada Brandt|The ferry)[^.]*\.", shown).group())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=() if path.name in WITHOUT_DEFAULTS else REAL)
        for path in EXAMPLES
    ],
)
def test_an_example_runs_and_prints_what_it_says(path, tmp_path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if missing := missing_packages(tree):
        pytest.skip(f"{', '.join(missing)} not installed")
    with chat_server(copies) as server:
        arguments = [server.url] if path.name == "writer_and_critic.py" else []
        done = run([sys.executable, str(path), *arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    expected = promised(ast.get_docstring(tree))
    assert expected
    assert re.fullmatch(expected, " ".join(done.stdout.split())), done.stdout


def test_there_are_at_most_eight_examples_and_each_says_how_to_run_it():
    assert 0 < len(EXAMPLES) <= 8
    for path in EXAMPLES:
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert f"python examples/{path.name}" in said
