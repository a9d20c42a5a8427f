"""Evaluate two systems on the same questions, and write the report that compares them.

    python examples/evaluate_two_systems.py [OUT]

Self-RAG with the default weights against plain RAG on the model that those were made from. It
prints the table of the report, with an interval and a paired test:

    | system | nq_open (match_released) |
    | --- | --- |
    | selfrag adaptive | … (n = 3) |
    | rag top-10 | … (n = 3) |
    …

OUT (`runs` where none is named) then holds both runs and `report.html`. Three questions prove
nothing: put a file of many in their place (docs/evaluation.md).
Needs `pip install -e ".[local,eval]"`.
"""

import json
import subprocess
import sys
from pathlib import Path

# Each question brings the passages to answer from; without `ctxs` they come from an index.
ROWS = [
    {
        "id": "ferry",
        "question": "When does the ferry to Quill leave?",
        "answers": ["nine"],
        "ctxs": [{"title": "Ferry", "text": "The ferry to Quill leaves at nine each morning."}],
    },
    {
        "id": "report",
        "question": "Who writes the report?",
        "answers": ["Ada Brandt"],
        "ctxs": [
            {"title": "Lunch", "text": "The cook of Quill serves soup on Mondays."},
            {"title": "Plans", "text": "Ada Brandt writes the report for the harbour."},
        ],
    },
    {
        "id": "fence",
        "question": "What colour is the fence?",
        "answers": ["green"],
        "ctxs": [{"title": "Fence", "text": "The fence of the school is green."}],
    },
]


def selfrag(*arguments: object) -> None:
    """Run a command of `selfrag`; it shows its progress on standard error."""
    command = [sys.executable, "-m", "selfrag", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(out: Path) -> None:
    """Answer with both systems, then compare; the same command again goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    questions = out / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for system in ("selfrag", "rag"):
        asked = ["--task", "nq_open", "--data", questions, "--out", out / system]
        selfrag("eval", *asked, "--system", system)
    selfrag("report", out / "selfrag", out / "rag", "--out", out / "report.html")
    print((out / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
