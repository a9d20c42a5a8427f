"""Whether `--compat reference` decides what the released scripts decided, on recorded cases.

`python benchmarks/reference_parity.py --data DIR --json` reads `short_form.jsonl.zst` and
`long_form.jsonl.zst` (or `.jsonl`) in DIR or its folder `reference_cases`: arguments, completions
and the released functions' results. Exits with 1 if a decision differs. The last line is one
JSON object.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.compat.completer import (
    End,
    Piece,
    Pieces,
    ReferenceConfig,
    ReferencePrompt,
    Written,
    spell,
)
from selfrag.compat.long import LongAnswer, LongNode, answer_long_form
from selfrag.compat.short import ShortAnswer, answer_short_form
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.score import ScoreWeights
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL
from selfrag.reflection import REFLECTION_TOKENS

TOLERANCE = 1e-6
MODES = {
    "adaptive_retrieval": RetrievalMode.ADAPTIVE,
    "always_retrieve": RetrievalMode.ALWAYS,
    "no_retrieval": RetrievalMode.NEVER,
}
CONTROLS = {str(token): token for token in REFLECTION_TOKENS}
SPECIALS: dict[str, Piece] = {**CONTROLS, str(End.OF_SEQUENCE): End.OF_SEQUENCE}
SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")

Row = Mapping[str, Any]


class RecordedCompleter:
    """A `Completer` that looks completions up by the exact text of the prompt.

    A case that ended with an error recorded no further prompts: those end at once.
    """

    def __init__(self, row: Row) -> None:
        self._completions = row["completions"]
        self._is_cut_short = "error" in row["expected"]

    def complete(self, prompts: Sequence[ReferencePrompt], *, max_new_tokens: int) -> list[Written]:
        """What was recorded; how many tokens were asked for then is part of the record."""
        return [self._written(prompt.text) for prompt in prompts]

    def _written(self, prompt: str) -> Written:
        if prompt not in self._completions and self._is_cut_short:
            return Written(
                controls=(None,),
                logprobs=np.zeros(1),
                watched=np.full((1, len(REFLECTION_TOKENS)), -20.0),
                pieces=(End.OF_SEQUENCE,),
            )
        completion = self._completions[prompt]
        return Written(
            controls=tuple(CONTROLS.get(token) for token in completion["tokens"]),
            logprobs=np.array(completion["logprobs"]),
            watched=np.array(completion["watched"]),
            pieces=as_pieces(completion["text"]),
        )


def as_pieces(text: str) -> Pieces:
    """Recorded text, with the control tokens that it spells."""
    return tuple(SPECIALS.get(part, part) for part in SPECIAL.split(text) if part)


def config_of(row: Row) -> ReferenceConfig:
    """The arguments of a row; long-form rows were recorded with both token groups on."""
    return ReferenceConfig(
        mode=MODES[row["mode"]],
        threshold=row["threshold"],
        max_new_tokens=row["max_new_tokens"],
        use_groundness=row.get("use_groundness", True),
        use_utility=row.get("use_utility", True),
        use_seqscore=row.get("use_seqscore", False),
        closed=row.get("closed", False),
        weights=ScoreWeights(
            relevance=row.get("w_rel", 1.0),
            support=row.get("w_sup", 1.0),
            utility=row.get("w_use", 1.0),
        ),
        beam_width=row.get("beam_width", 2),
        max_depth=row.get("max_depth", 2),
        ignore_cont=row.get("ignore_cont", False),
    )


def instruction_of(row: Row) -> str:
    """The bare instruction in the recorded prompt."""
    return str(row["prompt"]).removeprefix(INSTRUCTION_HEAD).removesuffix(INSTRUCTION_TAIL)


def passages_of(row: Row) -> list[Passage]:
    """The passages of a row, numbered."""
    return [
        Passage(id=str(i), title=passage["title"], text=passage["text"])
        for i, passage in enumerate(row["passages"])
    ]


def decide_short(row: Row) -> dict[str, Any]:
    """Our short-form result in the form of `expected`."""
    answer: ShortAnswer = answer_short_form(
        instruction_of(row),
        passages_of(row),
        completer=RecordedCompleter(row),
        config=config_of(row),
    )
    if answer.crash is not None:
        return {"error": answer.crash.error}
    scores = {f"retrieval_{i}": c.score for i, c in enumerate(answer.candidates)}
    return {"answer": answer.text, "retrieved": answer.retrieved, "scores": scores}


def decide_long(row: Row) -> dict[str, Any]:
    """Our long-form result in the form of `expected`."""
    answer: LongAnswer = answer_long_form(
        instruction_of(row),
        passages_of(row),
        completer=RecordedCompleter(row),
        config=config_of(row),
    )
    if answer.crash is not None:
        return {"error": answer.crash.error}
    if not answer.retrieved:
        return {"answer": answer.text, "retrieved": False}
    paths = {str(i): path for i, path in enumerate(answer.paths)}
    return {
        "answer": {i: path.text for i, path in paths.items()},
        "retrieved": True,
        "segments": {i: list(path.segments) for i, path in paths.items()},
        "passages": {i: [as_row(p) for p in path.passages] for i, path in paths.items()},
        "nodes": {str(node.number): node_row(node) for node in answer.nodes},
    }


def as_row(passage: Passage | None) -> dict[str, str] | None:
    """A passage as recorded; None for the root."""
    return None if passage is None else {"title": passage.title, "text": passage.text}


def node_row(node: LongNode) -> dict[str, Any]:
    """A node as recorded."""
    return {
        "prompt": node.prompt.text,
        "pred": spell(node.text),
        "processed_pred": spell(node.segment),
        "score": node.score,
        "parent": None if node.parent is None else node.parent.number,
    }


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Every place where two JSON values differ; numbers may by `TOLERANCE`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in ours or key not in theirs:
                yield f"{where}.{key}: only {'theirs' if key in theirs else 'ours'}"
            else:
                yield from differences(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, float) and isinstance(theirs, float | int):
        if not abs(ours - theirs) <= TOLERANCE:
            yield f"{where}: ours {ours}, theirs {theirs}"
    elif ours != theirs:
        yield f"{where}: ours {ours!r}, theirs {theirs!r}"


def read_rows(folder: Path, kind: str) -> list[Row]:
    """The cases of one kind, from `KIND.jsonl.zst` or else `KIND.jsonl`."""
    packed = folder / f"{kind}.jsonl.zst"
    if packed.exists():
        import zstandard

        text = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read().decode()
    elif (plain := folder / f"{kind}.jsonl").exists():
        text = plain.read_text(encoding="utf-8")
    else:
        sys.exit(f"--data {folder} holds neither {packed.name} nor {plain.name}: no recorded cases")
    return [json.loads(line) for line in text.splitlines()]


def main() -> int:
    """Parses the arguments, prints counts and mismatches; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded cases")
    parser.add_argument("--json", action="store_true", help="print the JSON object alone")
    options = parser.parse_args()
    nested = options.data / "reference_cases"
    folder = nested if nested.is_dir() else options.data
    result = {"crashes_defined": 0}
    for kind, decide in (("short_form", decide_short), ("long_form", decide_long)):
        rows = read_rows(folder, kind)
        n_equal = 0
        for number, row in enumerate(rows):
            found = list(differences(decide(row), row["expected"]))
            for difference in found:
                print(f"{kind} {number} {difference}", file=sys.stderr)
            n_equal += not found
            result["crashes_defined"] += not found and "error" in row["expected"]
        result |= {kind: len(rows), f"{kind}_equal": n_equal}
        if not options.json:
            print(f"{kind}: {n_equal} of {len(rows)} equal")
    print(json.dumps(result))
    return int(any(result[kind] != result[f"{kind}_equal"] for kind in ("short_form", "long_form")))


if __name__ == "__main__":
    sys.exit(main())
