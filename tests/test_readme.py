"""What README.md and the pages of the site show, run to the letter on the default model.

A block of `sh` or `python` runs, in the order of its page and in one folder, unless the line above
it says `<!-- not run: why -->`. A block of `text` right after one is what it prints.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not demo_index_dir().is_dir(), reason="the demo index is not built; run `selfrag demo`"
    ),
]


def test_the_front_page_and_the_first_how_tos_show_what_can_be_run():
    for page in ("README.md", "index.md", "documents.md", "check.md"):
        assert {kind for kind, _, _ in SHOWN[page]} == {"sh", "python"}, page
    assert all(printed for kind, _, printed in SHOWN["README.md"])


@pytest.mark.parametrize("page", [page for page, blocks in SHOWN.items() if blocks])
def test_what_a_page_shows_runs_and_prints_what_it_says(page, tmp_path):
    scripts = Path(sys.executable).parent
    for kind, code, printed in SHOWN[page]:
        command = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*command, code],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100", "PATH": f"{scripts}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (code, done.stderr)
        if printed:
            assert done.stdout.split() == printed.split()
