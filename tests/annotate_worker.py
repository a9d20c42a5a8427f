"""Run as a process of its own, to be killed: annotates answers with a teacher at an address."""

import json
import sys
from pathlib import Path

from selfrag.annotate.assemble import AssemblyConfig, Rules
from selfrag.annotate.chat import ChatConfig, ChatTeacher
from selfrag.annotate.generator_data import write_generator_data
from selfrag.annotate.judge import AnswerStore, Judge
from selfrag.annotate.sources import Source, read_sources
from selfrag.engine.endpoint import Endpoint, EndpointConfig
from selfrag.passage import Passage
from selfrag.retrieval.base import GivenPassages

PASSAGES = [Passage(id=str(n), title=f"T{n}", text=f"Passage {n}.") for n in range(3)]


def annotate(url: str, rows: Path, out: Path) -> None:
    endpoint = Endpoint(EndpointConfig(base_url=url, model="m", concurrency=2, max_retries=0))
    teacher = ChatTeacher(endpoint, ChatConfig(identity="x"))
    with AnswerStore(out.with_suffix(".answers")) as store:
        write_generator_data(
            read_sources([Source(path=rows, name="x")]),
            Judge(teacher, store),
            GivenPassages(PASSAGES),
            out,
            AssemblyConfig(rules=Rules.REFERENCE, top_k=3),
        )
    endpoint.close()


def write_rows(path: Path, n_rows: int) -> None:
    sentences = "The first sentence is long enough. The second one is long enough as well."
    rows = [{"instruction": f"Question {n}?", "output": sentences} for n in range(n_rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    annotate(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
