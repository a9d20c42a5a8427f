"""How often dropping passages after their first token changes an answer, from saved traces.

`python benchmarks/pruning.py TRACES --json` takes traces of `--mode always` or of
`benchmarks/default_quality.py --traces` and applies `prune_relevance` bounds to the first segments:
an answer changes where the passage that it was written from would have been skipped. The relevance
of a passage is known after one token, so nothing has to be computed again; later segments are left
as they were. The last line is one JSON object with a row for each bound.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from selfrag.decode.events import CandidateEvent, FinishEvent
from selfrag.decode.node import Node
from selfrag.trace.file import Trace, load_trace

BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def relevance(node: Node) -> float:
    """What the model said of the passage of a first segment; 0 where it judged none."""
    value = node.segment.scores.relevance if node.segment is not None else None
    return value or 0.0


def skips(candidates: Sequence[Node], bound: float) -> set[int]:
    """Identities of the candidates under `bound`; the most relevant one is never skipped."""
    best = max(relevance(node) for node in candidates)
    return {id(node) for node in candidates if relevance(node) < min(bound, best)}


def report(trace: Trace) -> list[dict[str, float]]:
    """For every bound: shares of passages skipped and of answers changed, in [0, 1]."""
    first: dict[int, list[Node]] = defaultdict(list)
    for event in trace.events:
        if isinstance(event, CandidateEvent) and event.node.depth == 1 and event.node.hits:
            if event.node.hits not in [node.hits for node in first[event.question]]:
                first[event.question].append(event.node)  # and no alternative
    winners = {
        event.question: event.best.path[0]
        for event in trace.events
        if isinstance(event, FinishEvent) and event.best.path and first[event.question]
    }
    rows = []
    for bound in BOUNDS:
        skipped = {q: skips(candidates, bound) for q, candidates in first.items() if candidates}
        n_skipped = sum(len(each) for each in skipped.values())
        n_changed = sum(id(node) in skipped[q] for q, node in winners.items())
        rows.append(
            {
                "bound": bound,
                "passages_skipped": round(n_skipped / sum(map(len, first.values())), 4),
                "answers_changed": round(n_changed / len(winners), 4),
            }
        )
    return rows


def main() -> None:
    """Parses the arguments and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, nargs="+", help="JSONL files written with --trace")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    trace = load_trace(*options.traces)
    rows = report(trace)
    if options.json:
        print(json.dumps({"questions": len(trace.questions), "bounds": rows}))
        return
    for row in rows:
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
