"""What the generator of `smollm2-end-to-end.sh` learns from: annotated rows, and some of its own.

    python recipes/chain_rows.py train.jsonl records.jsonl OUT --refusals 0.2 --replay 0.5

A row whose first passage the critic calls irrelevant would teach to answer from a passage that does
not answer; it becomes a refusal. One where that comes later is left out. Of refusals there are at
most `--refusals` times as many as of the others: with more, the model learns to refuse. `--replay`
times as many records of the mix that the generator was trained on before stand between all these,
against forgetting.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.reflection import Relevance, Utility

sys.path.insert(0, str(Path(__file__).parent / "default_weights"))
from labelled import NOT_IN_PASSAGE

Row = dict[str, Any]
_VERDICT = re.compile(rf"</paragraph>({'|'.join(re.escape(each) for each in Relevance)})")


def main() -> None:
    """Writes the rows in a fixed random order, and says how many there are of each kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("annotated", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--refusals", type=float, default=0.2)
    parser.add_argument("--replay", type=float, default=0.5)
    options = parser.parse_args()
    annotated = [json.loads(line) for line in options.annotated.read_text("utf-8").splitlines()]
    taught = [row for row in map(as_taught, annotated) if row is not None]
    answers = [row for row in taught if NOT_IN_PASSAGE not in row["output"]]
    refusals = [row for row in taught if NOT_IN_PASSAGE in row["output"]]
    kept = answers + refusals[: round(options.refusals * len(answers))]
    records = options.records.read_text("utf-8").splitlines()
    replayed = [json.loads(line) for line in records[: round(options.replay * len(kept))]]
    lines = [json.dumps(row, ensure_ascii=False) for row in kept + replayed]
    order = np.random.default_rng(0).permutation(len(lines))
    options.out.write_text("".join(lines[int(at)] + "\n" for at in order), "utf-8")
    sys.stdout.write(
        f"{len(annotated)} annotated rows: {len(answers)} as they are, "
        f"{len(kept) - len(answers)} refusals, {len(annotated) - len(kept)} left out; "
        f"{len(replayed)} records of the old mix\n"
    )


def as_taught(row: Row) -> Row | None:
    """The row, a refusal in its place, or None."""
    verdicts = _VERDICT.findall(row["output"])
    if Relevance.IRRELEVANT not in verdicts:
        return row
    if verdicts[0] != Relevance.IRRELEVANT:
        return None
    read = row["output"].split(Relevance.IRRELEVANT)[0]
    refusal = f"{read}{Relevance.IRRELEVANT}{NOT_IN_PASSAGE}{Utility.U1}"
    return {**row, "output": refusal}


if __name__ == "__main__":
    main()
