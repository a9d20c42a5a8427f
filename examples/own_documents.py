"""Make an index of a folder of documents, and ask it; every answer names the file it rests on.

    python examples/own_documents.py                       # two notes, written here
    python examples/own_documents.py FOLDER "A question?"  # your folder

The first prints:

    When is the report due?
    3 March. The report is due on 3 March. [1]
    [1] plan.md: # Plans The report is due on 3 March. Ada Brandt writes it.

    When does the ferry to Quill leave?
    At nine. The ferry to Quill leaves at nine. [1]
    [1] ferry.txt: The ferry to Quill leaves at nine. It carries no cars.

Needs `pip install -e ".[local]"`. The index is thrown away at the end. To keep yours, give
`indexing.build` a folder that stays, and call `indexing.update` when files have changed.
"""

import sys
import tempfile
from pathlib import Path

from selfrag import SelfRAG, indexing

NOTES = {
    "plan.md": "# Plans\n\nThe report is due on 3 March. Ada Brandt writes it.\n",
    "ferry.txt": "The ferry to Quill leaves at nine. It carries no cars.\n",
}
QUESTIONS = ["When is the report due?", "When does the ferry to Quill leave?"]


def main(work: Path, folder: Path, questions: list[str]) -> None:
    """Index `folder` in `work`, then answer the questions together."""
    index = work / "index"
    indexing.build([folder], index)
    with SelfRAG.from_pretrained(index=index) as rag:
        for answer in rag.batch(questions):
            print(answer.question)
            print(answer.cited_text or answer.verdict)
            for number in answer.citations:
                passage = answer.passages[number - 1].passage
                print(f"[{number}] {Path(passage.source).name}: {' '.join(passage.text.split())}")
            print()


def write_notes(folder: Path) -> Path:
    """The notes above as files of a folder."""
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        if len(sys.argv) > 2:
            main(Path(work), Path(sys.argv[1]), sys.argv[2:])
        else:
            main(Path(work), write_notes(Path(work) / "notes"), QUESTIONS)
