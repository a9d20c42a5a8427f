"""The question that a user types, or pipes in."""

import sys

from selfrag.errors import BadInput


def question_from(argument: str | None) -> str:
    """The question as given, or from standard input for `-`; raises `BadInput` when empty."""
    question = sys.stdin.read() if argument == "-" else argument or ""
    if not question.strip():
        raise BadInput(
            "cannot answer: the question is empty; expected a question or an instruction, "
            'so write one, as in selfrag ask "Which planet has the moon Titan?"'
        )
    return question.strip()
