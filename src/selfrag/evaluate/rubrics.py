"""What an untuned chat model is asked in place of reflection tokens, one question a token group.

The labels stand for the tokens in their order, and differ in their first token. Knows nothing of
models or search.
"""

from dataclasses import dataclass

from selfrag.passage import Passage
from selfrag.reflection import ReflectionToken, Relevance, Retrieve, Support, Utility


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """A text with `{question}`, `{passage}` and `{answer}` where they are used, and its labels."""

    text: str
    labels: tuple[str, ...] = ()
    tokens: tuple[ReflectionToken, ...] = ()

    def render(self, question: str, *, passage: Passage | None = None, answer: str = "") -> str:
        """The prompt; what is put in is never read for names again."""
        parts = {
            "{question}": question,
            "{passage}": "" if passage is None else f"{passage.title}\n{passage.text}".strip(),
            "{answer}": answer,
        }
        out, rest = "", self.text
        while rest:
            found = [(rest.find(name), name) for name in parts if name in rest]
            if not found:
                return out + rest
            place, name = min(found)
            out, rest = out + rest[:place] + parts[name], rest[place + len(name) :]
        return out


RETRIEVE = Rubric(
    text=(
        "Request: {question}\n\nDoes a good answer need facts that should be looked up in an "
        "encyclopedia? Answer Yes or No."
    ),
    labels=("No", "Yes"),
    tokens=(Retrieve.NO, Retrieve.YES),
)
RELEVANCE = Rubric(
    text=(
        "Request: {question}\n\nPassage:\n{passage}\n\nDoes the passage help to answer the "
        "request? Answer Yes or No."
    ),
    labels=("No", "Yes"),
    tokens=(Relevance.IRRELEVANT, Relevance.RELEVANT),
)
SUPPORT = Rubric(
    text=(
        "Passage:\n{passage}\n\nStatement: {answer}\n\nHow much of the statement is backed by the "
        "passage alone? Answer All, Some or None."
    ),
    labels=("All", "Some", "None"),
    tokens=(Support.FULL, Support.PARTIAL, Support.NONE),
)
UTILITY = Rubric(
    text=(
        "Request: {question}\n\nResponse: {answer}\n\nHow useful is the response to the person who "
        "asked? Answer with one digit from 1 (useless) to 5 (complete)."
    ),
    labels=("1", "2", "3", "4", "5"),
    tokens=tuple(Utility),
)
ANSWER = Rubric(text="Passage:\n{passage}\n\nUse the passage to respond, shortly.\n\n{question}")
QUERY = Rubric(
    text=(
        "Request: {question}\n\nA first search found nothing that answers it. Write another "
        "search query for an encyclopedia. Write the query alone."
    )
)
