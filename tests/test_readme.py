"""The examples of README.md as they stand there, on the default model and the demo index."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from selfrag.open.indexes import demo_index_dir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not demo_index_dir().is_dir(), reason="the demo index is not built; run `selfrag demo`"
    ),
]

# A block of Python and, where it is followed by one, the block of text that it prints.
BLOCKS = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", README, re.DOTALL)
# Questions that are asked on one line; what follows two spaces and `#` is a comment.
ASKED = re.findall(
    r"^((?:echo .*\| )?selfrag (?:ask|check|search|doctor)\b.*?)(?:\s\s+#.*)?$", README, re.M
)
ASKED = [line for line in ASKED if "my-index" not in line and " --index " not in line]


def test_the_readme_shows_python_and_questions():
    assert len(BLOCKS) >= 1 and len(ASKED) >= 8


@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_python_of_the_readme_runs_and_prints_what_it_shows(code, printed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.strip()
    if printed:
        assert done.stdout.split() == printed.split()


@pytest.mark.parametrize("line", ASKED)
def test_a_question_of_the_readme_is_answered(line, tmp_path):
    (tmp_path / "answer.md").write_text("Titan is the largest moon of Saturn.")
    piped, _, command = line.rpartition("| ")
    text = shlex.split(piped)[1] if piped else ""
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "selfrag", *arguments],
        input=text,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and done.stderr == ""
