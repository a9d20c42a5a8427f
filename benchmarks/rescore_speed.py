"""How fast recorded searches are rescored: synthetic traces, a grid of 1,000 weights.

`python benchmarks/rescore_speed.py --json` writes a trace of 1,000 questions with 10 candidates
each, loads it and rescores it under 10 x 10 x 10 weights at one threshold; no setting shares its
scores with another. `seconds` is the rescoring alone, `load_seconds` the reading of the file; the
peak is that of the whole process. The last line is one JSON object.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from selfrag.decode.events import CandidateEvent, Event, FinishEvent, GateEvent, Usage
from selfrag.decode.gate import Gate, GateNumbers, GateRule
from selfrag.decode.node import Node
from selfrag.decode.score import ScoreWeights, weigh
from selfrag.decode.segment import GroupLogprobs, Segment
from selfrag.passage import Hit, Passage
from selfrag.reflection import Relevance
from selfrag.trace.file import TraceWriter
from selfrag.trace.rescore import Grid, load_traces, rescore

WORDS = ("Titan", "Rhea", "Dione", "Mimas")


def synthetic_events(question: int, n_candidates: int, rng: np.random.Generator) -> list[Event]:
    """One search of one level; every second candidate reads a passage."""
    numbers = GateNumbers(paper=float(rng.random()), reference=0.5)
    gate = Gate(numbers=numbers, rule=GateRule(), retrieve=True)
    root = Node.root(tuple(range(40)))
    nodes = [_candidate(root, place, rng) for place in range(n_candidates)]
    best = max(nodes, key=lambda node: node.path_score)
    return [
        GateEvent(question=question, gate=gate),
        *(CandidateEvent(question=question, node=node) for node in nodes),
        FinishEvent(question=question, best=best, gate=gate, beam=(best,), usage=Usage()),
    ]


def _candidate(root: Node, place: int, rng: np.random.Generator) -> Node:
    relevance, support, utility, sequence = rng.random(4).tolist()
    said, read = (str(word) for word in rng.choice(WORDS, 2))
    passage = Passage(id=f"p{place}", title=read, text=f"{read} is a moon of Saturn. " * 12)
    segment = Segment(
        text=f"{said} is a moon.",
        body_ids=tuple(range(20)),
        critique=(Relevance.RELEVANT,),
        scores=weigh(
            relevance=relevance,
            support=support,
            utility=utility,
            sequence=sequence,
            weights=ScoreWeights(),
            missing={},
        ),
        finished=True,
        truncated=False,
        ends_on=None,
        next_retrieve=None,
        logprobs=GroupLogprobs(relevance=None, support=None, utility=None, mean=-0.5),
        n_tokens=21,
    )
    hits = (Hit(passage=passage, score=0.5, rank=place + 1),) if place % 2 == 0 else ()
    lead_ids = tuple(range(120)) if hits else (0,)
    return root.child(place + 1, segment, lead_ids=lead_ids, hits=hits)


def measure(n_questions: int, n_candidates: int) -> dict[str, float]:
    """Writes, loads and rescores; times in seconds, the peak in MB."""
    rng = np.random.default_rng(0)
    questions = [f"Which moon is number {number}?" for number in range(n_questions)]
    golds = [[str(rng.choice(WORDS))] for _ in questions]
    tenths = "0.1:1:0.1"
    grid = Grid.parse(threshold="0.2", w_rel=tenths, w_sup=tenths, w_use=tenths)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        with TraceWriter(path, questions, answers=golds) as writer:
            for number in range(n_questions):
                for event in synthetic_events(number, n_candidates, rng):
                    writer.write(event)
        started = time.perf_counter()
        traces = load_traces(path)
        loaded = time.perf_counter()
        table = rescore(traces, grid)
        ended = time.perf_counter()
    return {
        "settings": table.n_settings,
        "questions": traces.n_questions,
        "candidates": traces.reads.shape[1],
        "seconds": round(ended - loaded, 3),
        "load_seconds": round(loaded - started, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Parses the arguments and prints the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    result = measure(options.questions, options.candidates)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()
