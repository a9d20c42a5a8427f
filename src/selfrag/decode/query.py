"""What is searched for a question that follows others. Knows nothing of indexes."""

from collections.abc import Sequence

from selfrag.prompt import Turn

FOLLOW_UP_WORDS = 40  # of an earlier answer, in what is searched for a follow-up


def follow_up_query(query: str, history: Sequence[Turn]) -> str:
    """What is searched for a question: alone, or around the last two turns with their answers.

    "When was he born?" is about somebody that an answer names. The question comes first and last:
    encoders read the beginning of a text only, and it should weigh as much as what was said before.
    """
    if not history:
        return query
    said = [
        text
        for turn in history[-2:]
        for text in (turn.question.strip(), *turn.answer.split()[:FOLLOW_UP_WORDS])
    ]
    return " ".join([query, *said, query])
