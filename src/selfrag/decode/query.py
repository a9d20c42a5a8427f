"""What a question that follows others is about. English; knows nothing of indexes."""

import re
from collections.abc import Sequence

from selfrag.decode.wording import content_words
from selfrag.prompt import Turn

FOLLOW_UP_WORDS = 40  # of an earlier answer, in what is searched for a follow-up
_ASKS = frozenset(
    "who whom whose what when where which why how is are was were do does did has have had can "
    "could will would should tell name list describe explain give write compare".split()
)
_REFERS = frozenset(
    "he she it they him her them his hers its their theirs himself herself itself themselves this "
    "that these those there then one ones other others another former latter same both either "
    "neither else instead again also too so such more less than about".split()
)


def stands_alone(question: str) -> bool:
    """Whether a question surely needs nothing that was said before.

    It begins as questions and requests do, names something (a word with a capital, or a number),
    and no word of it points elsewhere. A question of which this is not sure is a follow-up.
    """
    first, *words = re.findall(r"\w+", question) or [""]
    names = [word for word in words if (word[0].isupper() and word != "I") or word[0].isdigit()]
    return (
        first.lower() in _ASKS
        and bool(names)
        and len(content_words(question)) > 1
        and not _REFERS & {word.lower() for word in words}
    )


def turns_for(question: str, history: Sequence[Turn]) -> Sequence[Turn]:
    """The earlier turns that are read with a question: none where it stands alone."""
    return () if stands_alone(question) else history


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
