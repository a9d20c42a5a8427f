"""Whether an answer survives other words: 50 questions about the demo index, asked in two ways.

`python benchmarks/paraphrases.py --json` asks all 100 with the default weights, or with a folder
that --model names. The wordings (`paraphrases.jsonl`) were written without knowledge of the
templates of training. An answer is right when it holds a gold string; `short`: when its first
sentence does. The last line is one JSON object.
"""

import argparse
import json
from pathlib import Path

from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.events import Event
from selfrag.decode.score import ScoreWeights
from selfrag.engine.base import Precision
from selfrag.open.calibrations import open_calibration
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.open.indexes import open_index
from selfrag.progress import SILENT
from selfrag.statistics import wilson
from selfrag.text import first_sentence, holds_gold
from selfrag.trace.file import save_trace

ROWS = Path(__file__).with_suffix(".jsonl")


def shares(first: list[bool], second: list[bool]) -> dict[str, object]:
    """Of pairs of answers: how many are right in one wording, and how many of those in both."""
    both = sum(a and b for a, b in zip(first, second, strict=True))
    either = sum(a or b for a, b in zip(first, second, strict=True))
    low, high = wilson(both, either)
    return {
        "right": round(sum(first + second) / len(first + second), 3),
        "either": either,
        "both": both,
        "kept": round(both / either, 3) if either else None,
        "interval": [round(low, 3), round(high, 3)],
    }


def main() -> None:
    """Asks, counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a folder instead of the defaults")
    parser.add_argument("--precision", type=Precision, default=Precision.EXACT)
    parser.add_argument("--w-ret", type=float, default=ScoreWeights().retrieval)
    parser.add_argument("--traces", type=Path, help="JSONL file for `selfrag rescore`")
    parser.add_argument("--json", action="store_true", help="kept for scripts; always printed")
    args = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    asked = [row["wordings"][way] for way in (0, 1) for row in rows]
    events: list[Event] = []
    model = ModelOptions(model=args.model, precision=args.precision)
    answers = answer_questions(
        asked,
        engine=open_engine(model),
        retriever=open_index(None, SILENT),
        config=SearchConfig(weights=ScoreWeights(retrieval=args.w_ret)),
        calibration=open_calibration(model),
        on_event=events.append,
    )
    texts = [answer.text for answer in answers]
    gold = [row["answers"] for row in (*rows, *rows)]
    if args.traces:
        save_trace(args.traces, asked, events, answers=gold)
    whole = [holds_gold(*pair) for pair in zip(texts, gold, strict=True)]
    begun = [first_sentence(text) for text in texts]
    short = [holds_gold(*pair) for pair in zip(begun, gold, strict=True)]
    n = len(rows)
    print(
        json.dumps({"match": shares(whole[:n], whole[n:]), "short": shares(short[:n], short[n:])})
    )


if __name__ == "__main__":
    main()
