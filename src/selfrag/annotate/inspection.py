"""A look into training data in the released schema: where the tokens stand, and how often.

Knows nothing of colours or tables.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfrag.annotate.rejects import Reject, Stage
from selfrag.annotate.seeds import RowError, row_object, text_field
from selfrag.reflection import REFLECTION_TOKENS, Marker, ReflectionToken

_BY_TEXT: Mapping[str, ReflectionToken] = {str(token): token for token in REFLECTION_TOKENS}
_TOKEN = re.compile("|".join(re.escape(text) for text in _BY_TEXT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of the output: a token, a passage with its markers, or text of the answer."""

    text: str
    token: ReflectionToken | None = None
    is_passage: bool = False


def spans(output: str) -> list[Span]:
    """`output` in runs that joined are `output`; a passage ends at the first end marker."""
    found: list[Span] = []
    at = 0
    while at < len(output):
        match = _TOKEN.search(output, at)
        if match is None or match.start() > at:
            end = match.start() if match else len(output)
            found.append(Span(text=output[at:end]))
            at = end
            continue
        token = _BY_TEXT[match.group()]
        end = match.end()
        if token is Marker.PARAGRAPH_START:
            closing = output.find(Marker.PARAGRAPH_END, end)
            end = closing + len(Marker.PARAGRAPH_END) if closing >= 0 else len(output)
            found.append(Span(text=output[at:end], is_passage=True))
        else:
            found.append(Span(text=match.group(), token=token))
        at = end
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRow:
    """One row as shown."""

    id: str
    dataset: str
    instruction: str
    spans: list[Span]
    by: Counter[str]  # who gave the tokens, where the row says so


@dataclass(slots=True)
class DataStatistics:
    """Counts over rows; every token of the vocabulary has one."""

    rows: int = 0
    rejects: int = 0
    passages: int = 0
    answer_words: int = 0
    datasets: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    by: Counter[str] = field(default_factory=Counter)

    def add(self, row: DataRow) -> None:
        """Counts one row."""
        self.rows += 1
        self.datasets[row.dataset] += 1
        self.by.update(row.by)
        self.tokens.update(str(span.token) for span in row.spans if span.token)
        self.passages += sum(span.is_passage for span in row.spans)
        plain = [span.text for span in row.spans if not span.token and not span.is_passage]
        self.answer_words += sum(len(text.split()) for text in plain)
        first = row.spans[0] if row.spans else Span(text="")
        self.starts[str(first.token or "text")] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts by name, commonest first where no order is given by the vocabulary."""
        shown = [token for token in REFLECTION_TOKENS if not isinstance(token, Marker)]
        return {
            "rows": self.rows,
            "rejects": self.rejects,
            "datasets": dict(self.datasets.most_common()),
            "tokens": {str(token): self.tokens[str(token)] for token in shown},
            "starts_with": dict(self.starts.most_common()),
            "given_by": dict(self.by.most_common()),
            "passages": self.passages,
            "answer_words": self.answer_words,
        }


def data_rows(rows: Iterable[tuple[int, Any]]) -> Iterable[DataRow | Reject]:
    """Numbered rows of the released schema as shown, or as rejects."""
    for number, row in rows:
        try:
            data = row_object(row)
            yield DataRow(
                id=str(data.get("id", number)),
                dataset=text_field(data, "dataset_name"),
                instruction=text_field(data, "instruction", required=True),
                spans=spans(text_field(data, "output", required=True)),
                by=Counter(_givers(data.get("provenance"))),
            )
        except RowError as error:
            yield Reject(
                id=f"row {number}",
                stage=Stage.READ,
                reason=error.reason,
                detail=str(error),
            )


def _givers(provenance: Any) -> list[str]:
    if not isinstance(provenance, list):
        return []
    return [str(entry.get("by", "")) for entry in provenance if isinstance(entry, dict)]
