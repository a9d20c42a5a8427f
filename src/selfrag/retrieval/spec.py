"""How texts become vectors: what an index records of its encoder, so that no other queries it.

Knows nothing of models or indexes.
"""

from dataclasses import dataclass
from enum import StrEnum

from selfrag.passage import Passage


class Metric(StrEnum):
    """How two vectors are compared; a higher value is nearer."""

    DOT = "dot"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Everything that decides a vector apart from the weights, which `name` stands for.

    `dim` components; `normalised` rows have length 1; texts are cut at `max_tokens`. A passage is
    encoded as prefix, title, separator, text; without a title as prefix and text.
    """

    name: str
    dim: int
    normalised: bool = True
    metric: Metric = Metric.DOT
    query_prefix: str = ""
    passage_prefix: str = ""
    title_separator: str = ". "
    max_tokens: int = 256

    def query_text(self, query: str) -> str:
        """What is encoded for a query."""
        return self.query_prefix + query

    def passage_text(self, passage: Passage) -> str:
        """What is encoded for a passage."""
        head = passage.title + self.title_separator if passage.title else ""
        return self.passage_prefix + head + passage.text

    def difference(self, other: "EncoderSpec") -> str:
        """Where vectors of the two cannot be compared, in words; empty when they can.

        How passages were written and cut does not matter to a query.
        """
        names = ("name", "dim", "normalised", "metric", "query_prefix")
        return ", ".join(
            f"{name} {getattr(self, name)!r} against {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        )
