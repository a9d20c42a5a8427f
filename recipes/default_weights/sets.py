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
