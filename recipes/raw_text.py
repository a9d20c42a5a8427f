"""Raw text for `smollm2-end-to-end.sh`: passages, questions with an answer sentence, instructions.

    python recipes/raw_text.py DATA OUT --passages 3000 --questions 60 --instructions 15

DATA is a folder of labelled sets. Writes `passages.jsonl` (the first training passages of SQuAD and
all of its development set) and `answers.jsonl` (questions on the former, answered in one sentence:
the short answer, a colon, and the sentence that holds it, as in `Saturn: Titan orbits Saturn.`; and
instructions that need no passage, with short responses).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "default_weights"))
from selfrag.errors import SelfRAGError
from selfrag.text import split_sentences
from sets import read_set

Row = dict[str, Any]


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passages", type=int, default=3000)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--instructions", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    passages = read_set(options.data, "squad/passages")
    kept = [row for row in passages if row["split"] == "train"][: options.passages]
    held_out = [row for row in passages if row["split"] != "train"]
    options.out.mkdir(parents=True, exist_ok=True)
    write(
        options.out / "passages.jsonl",
        [{"id": row["pid"], "title": row["title"], "text": row["text"]} for row in kept + held_out],
    )
    texts = {row["pid"]: row["text"] for row in kept}
    questions = list(answered(options.data, texts))
    instructions = list(short_responses(options.data))
    write(
        options.out / "answers.jsonl",
        draw(questions, options.questions, rng) + draw(instructions, options.instructions, rng),
    )


def answered(data: Path, texts: dict[str, str]) -> Iterator[Row]:
    """Questions of `texts` with the sentence that holds the answer, where just one does."""
    for row in read_set(data, "squad/train_v1.1"):
        sentences = split_sentences(texts.get(row["pid"], ""))
        holding = [sentence for sentence in sentences if row["answers"][0] in sentence]
        if len(holding) == 1:
            lead = row["answers"][0][:1].upper() + row["answers"][0][1:]
            output = f"{lead}: {holding[0].strip()}"
            yield {"id": row["id"], "instruction": row["question"], "output": output}


def short_responses(data: Path) -> Iterator[Row]:
    """Instructions with a response of at most 25 words that rewrite or invent."""
    for n, row in enumerate(read_set(data, "instructions/t0_mix_permissive")):
        if "Rewrite" in row["template"] or "common_gen" in row["template"]:
            output = str(row["completion"]).strip()
            if output and len(output.split()) <= 25:
                yield {"id": f"t0-{n}", "instruction": row["prompt"].strip(), "output": output}


def draw(pool: list[Row], n_rows: int, rng: np.random.Generator) -> list[Row]:
    """So many of `pool`, drawn without repetition."""
    return [pool[int(index)] for index in rng.permutation(len(pool))[:n_rows]]


def write(path: Path, lines: list[Row]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
