"""The 15 reflection tokens, their groups, and their ids in one vocabulary.

Knows nothing of prompts, models or scores. Strings and order are those of the released
generators (AkariAsai/self-rag 1fcdc42, `retrieval_lm/finetune.py`); the meaning of each group is
Self-RAG (arXiv 2310.11511), table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Retrieve(StrEnum):
    """Retrieve: does the next segment need a passage?"""

    NO = "[No Retrieval]"
    YES = "[Retrieval]"
    CONTINUE = "[Continue to Use Evidence]"


class Relevance(StrEnum):
    """IsRel: does the passage help with the question?"""

    IRRELEVANT = "[Irrelevant]"
    RELEVANT = "[Relevant]"


class Marker(StrEnum):
    """What encloses a passage in the model's context."""

    PARAGRAPH_START = "<paragraph>"
    PARAGRAPH_END = "</paragraph>"


class Utility(StrEnum):
    """IsUse: how useful is the answer, from 1 to 5?"""

    U1 = "[Utility:1]"
    U2 = "[Utility:2]"
    U3 = "[Utility:3]"
    U4 = "[Utility:4]"
    U5 = "[Utility:5]"


class Support(StrEnum):
    """IsSup: does the passage support the segment?"""

    FULL = "[Fully supported]"
    PARTIAL = "[Partially supported]"
    NONE = "[No support / Contradictory]"


ReflectionToken = Retrieve | Relevance | Marker | Utility | Support

# The order in which a vocabulary is grown: ids 32000..32014 on a 32,000-token base.
REFLECTION_TOKENS: tuple[ReflectionToken, ...] = (
    *Retrieve,
    *Relevance,
    *Marker,
    *Utility,
    *Support,
)


@dataclass(frozen=True)
class ReflectionIds:
    """The reflection tokens as ids of one vocabulary."""

    by_token: dict[ReflectionToken, int]
    end_of_sequence: int

    def __getitem__(self, token: ReflectionToken) -> int:
        return self.by_token[token]

    @cached_property
    def retrieve(self) -> tuple[int, ...]:
        """Ids of [No Retrieval], [Retrieval], [Continue to Use Evidence]."""
        return tuple(self.by_token[token] for token in Retrieve)

    @cached_property
    def relevance(self) -> tuple[int, ...]:
        """Ids of [Irrelevant], [Relevant]."""
        return tuple(self.by_token[token] for token in Relevance)

    @cached_property
    def support(self) -> tuple[int, ...]:
        """Ids of the three IsSup tokens: full, partial, none."""
        return tuple(self.by_token[token] for token in Support)

    @cached_property
    def utility(self) -> tuple[int, ...]:
        """Ids of [Utility:1] .. [Utility:5]."""
        return tuple(self.by_token[token] for token in Utility)

    @cached_property
    def all(self) -> tuple[int, ...]:
        """All 15 ids in the order of `REFLECTION_TOKENS`: what an engine is asked to watch."""
        return tuple(self.by_token[token] for token in REFLECTION_TOKENS)

    @cached_property
    def token_of(self) -> dict[int, ReflectionToken]:
        """The inverse of `by_token`."""
        return {token_id: token for token, token_id in self.by_token.items()}

    @cached_property
    def segment_stops(self) -> frozenset[int]:
        """A segment ends where the next retrieval decision or the end of the answer begins."""
        return frozenset((*self.retrieve, self.end_of_sequence))


def bind(token_to_id: Callable[[str], int], *, end_of_sequence: int) -> ReflectionIds:
    """The ids of all reflection tokens, looked up one by one.

    `token_to_id` maps a surface string to its id and raises `KeyError` for one that it lacks;
    two tokens with the same id raise `ValueError`.
    """
    by_token = {token: token_to_id(token.value) for token in REFLECTION_TOKENS}
    if len({*by_token.values(), end_of_sequence}) != len(by_token) + 1:
        raise ValueError(
            f"cannot bind the reflection tokens: several share one id in {by_token}; "
            "every token and the end of sequence need an id of their own"
        )
    return ReflectionIds(by_token, end_of_sequence)
