"""The labelled sets as files: rows of a set, the passages of the retrieval benchmark.

Knows nothing of records or labels.
"""

import json
import re
from pathlib import Path
from typing import Any

import zstandard

from selfrag.errors import BadInput
from selfrag.passage import Passage


def read_set(data: Path, name: str) -> list[dict[str, Any]]:
    """All rows of `<data>/<name>.jsonl.zst`; raises `BadInput` when it cannot be read."""
    path = data / f"{name}.jsonl.zst"
    try:
        with path.open("rb") as packed:
            text = zstandard.ZstdDecompressor().stream_reader(packed).read().decode()
        return [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise BadInput(
            f"cannot read the set {name!r}: {error}; expected the labelled sets as zstd-compressed "
            f"JSON lines, this one as {path}, so name the folder that holds them"
        ) from error


def wiki_passages(data: Path) -> dict[str, Passage]:
    """The passages of the retrieval benchmark, by id, in corpus order."""
    rows = read_set(data, "wiki_retrieval/passages")
    return {
        row["pid"]: Passage(
            id=row["pid"], title=row["title"], text=untokenise(row["text"]), source="Wikipedia"
        )
        for row in rows
    }


def untokenise(text: str) -> str:
    """Undoes the spacing of Natural Questions' tokenised text; other text is left as it is."""
    text = text.replace("-LRB- ", "(").replace(" -RRB-", ")")
    if " ." not in text and " ," not in text and "`` " not in text:
        return text
    text = text.replace("`` ", '"').replace(" ''", '"').replace("-- ", "\u2013 ")
    text = re.sub(r" ([,.;:?!%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    return re.sub(r" ('s|'re|'ve|'ll|'d|n't|')(?!\w)", r"\1", text)


# Questions that benchmarks and evaluations ask; `pairs.py` keeps its own apart.
EVALUATION_SETS = (
    "wiki_retrieval/qrels_dev",
    "squad/dev_v1.1",
    "nq_open/dev_3610",
    "nq_open/efficientqa_dev",
    "nq_open/efficientqa_test_with_human_judgements",
    "triviaqa/test_part",
    "webquestions/test_part",
    "popqa/popqa_part",
    "qed/dev",
    "asqa/asqa_part",
    "boolq/validation_part",
    "retrievalqa/part",
)


def evaluation_questions(data: Path) -> set[str]:
    """Every question of the evaluation sets that are there, as `normalised` spells it.

    Not those of the sets that `pairs.py` splits: these keep their two parts apart themselves.
    """
    found = set()
    for name in EVALUATION_SETS:
        if not (data / f"{name}.jsonl.zst").is_file():
            continue
        for row in read_set(data, name):
            asked = next(row[key] for key in ("question", "question_text", "query") if key in row)
            if row.get("dataset") not in ("selqa", "clapnq"):
                found.add(normalised(asked))
    return found


def normalised(text: str) -> str:
    """Words alone, in lower case, so that spelling hides no question that is known."""
    return " ".join(re.findall(r"\w+", untokenise(text).lower()))


# By the folder of a set, or by what records made from several sets are called.
LICENCES = {
    "begin": "CC BY 4.0, CDLA-Sharing-1.0",
    "boolq": "CC BY-SA 3.0",
    "clapnq": "Apache-2.0, CC BY-SA 3.0",
    "entity_questions": "MIT",
    "factcheck_bench": "Apache-2.0",
    "fever": "CC BY-SA 3.0",
    "fool_me_twice": "Apache-2.0, CC BY-SA 3.0",
    "instructions": "CC BY-SA 3.0, Apache-2.0",
    "long": "CC BY-SA 3.0 and 4.0",
    "nq_open": "CC BY-SA 3.0",
    "qed": "CC BY-SA 3.0",
    "selqa": "Apache-2.0, CC BY-SA 3.0",
    "short": "made by rule",
    "squad": "CC BY-SA 4.0",
    "strategyqa": "MIT",
    "topics": "CC BY-SA 3.0 and 4.0",
    "triviaqa": "Apache-2.0",
    "webquestions": "CC BY 4.0",
    "wice": "ODC-By 1.0, CC BY-SA",
}
