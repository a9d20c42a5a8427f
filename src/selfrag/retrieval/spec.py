"""How texts become vectors: what an index records of its encoder, so that no other queries it.

Knows nothing of models or indexes.
"""

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from selfrag.passage import Passage

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


class Metric(StrEnum):
    """How two vectors are compared; a higher value is nearer."""

    DOT = "dot"
    COSINE = "cosine"


class Precision(StrEnum):
    """What a model computes in; vectors are float32 always.

    INT8 rounds weights and activations: MiniLM vectors keep a cosine of .993 to their fp32 ones.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


# What decides a query's vector; and, besides, what decides a passage's. `precision` is in neither:
# its vectors are near enough for one to query the other.
_OF_QUERIES = ("name", "dim", "pooling", "normalised", "metric", "query_prefix")
_OF_PASSAGES = ("passage_prefix", "title_separator", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Everything that decides a vector apart from the weights, which `name` stands for.

    `dim` components, of which `pooling` says how they come from the states of a text: "mean" over
    its tokens, "cls" for the first token's, or as the model's folder says it. `normalised` rows
    have length 1; texts are cut at `max_tokens`. A passage is encoded as prefix, title, separator,
    text; without a title as prefix and text.
    """

    name: str
    dim: int
    normalised: bool = True
    metric: Metric = Metric.DOT
    query_prefix: str = ""
    passage_prefix: str = ""
    title_separator: str = ". "
    max_tokens: int = 256
    pooling: str = "mean"
    precision: Precision = Precision.FP32

    def query_text(self, query: str) -> str:
        """What is encoded for a query."""
        return self.query_prefix + query

    def passage_text(self, passage: Passage) -> str:
        """What is encoded for a passage."""
        head = passage.title + self.title_separator if passage.title else ""
        return self.passage_prefix + head + passage.text

    def difference(self, other: "EncoderSpec", *, for_passages: bool = False) -> str:
        """Where vectors of the two cannot be compared, in words; empty when they can.

        How passages were written and cut does not matter to a query, but it does to new passages
        beside old ones: `for_passages`.
        """
        names = _OF_QUERIES + (_OF_PASSAGES if for_passages else ())
        return ", ".join(
            f"{name} {shown(getattr(self, name))} against {shown(getattr(other, name))}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        )


def shown(value: Any) -> str:
    """A value of a spec as an error spells it, a member of an enumeration as users write it."""
    return repr(value.value if isinstance(value, StrEnum) else value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a family of models is used where its folder does not say it all.

    Vectors that are not `normalised` are compared by inner product as they are.
    """

    normalised: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    title_separator: str = ". "
    max_tokens: int = 256

    @classmethod
    def of(cls, spec: EncoderSpec) -> "Recipe":
        """How the model of `spec` was used."""
        return cls(**{field.name: getattr(spec, field.name) for field in fields(cls)})

    def spec(
        self,
        name: str,
        *,
        dim: int,
        max_tokens: int,
        pooling: str = "mean",
        precision: Precision = Precision.FP32,
    ) -> EncoderSpec:
        """The spec of the model `name` used in this way."""
        return EncoderSpec(
            name=name,
            dim=dim,
            normalised=self.normalised,
            query_prefix=self.query_prefix,
            passage_prefix=self.passage_prefix,
            title_separator=self.title_separator,
            max_tokens=max_tokens,
            pooling=pooling,
            precision=precision,
        )


# arXiv 2112.09118 and generate_passage_embeddings.py of facebookresearch/contriever: the mean over
# the attention mask, not normalised, title and text with a space between.
CONTRIEVER = Recipe(normalised=False, title_separator=" ", max_tokens=512)
# arXiv 2212.03533; instruct models of this name have prefixes of their own, in their folders.
E5 = Recipe(query_prefix="query: ", passage_prefix="passage: ", max_tokens=512)
_FAMILIES = (
    (re.compile(r"contriever(-msmarco)?"), CONTRIEVER),
    (re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?"), E5),
)


def recipe_for(name: str) -> Recipe | None:
    """The recipe for a model by the last part of its name or folder; none for most."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((recipe for family, recipe in _FAMILIES if family.fullmatch(last)), None)
