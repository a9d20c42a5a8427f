"""MAUVE of a run's long answers against people's, by the package `mauve-text` (GPL, optional).

ALCE compares question and answer together, with features of GPT-2 large. Pillutla et al., arXiv
2102.01454.
"""

from collections.abc import Sequence
from typing import Any

from selfrag.errors import BadInput, SelfRAGError
from selfrag.evaluate.metrics import without_citations
from selfrag.evaluate.record import Record

MAX_WORDS = 100  # of question and answer; ALCE cuts there
MIN_TEXTS = 10  # fewer give no distribution to compare


def mauve_texts(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """(by people, by the system), each question and answer; the first long answer counts."""
    human: list[str] = []
    machine: list[str] = []
    for record in records:
        question, output = record.question, record.output
        if output is None or not question.references:
            continue
        human.append(_cut(f"{question.text} {question.references[0]}"))
        machine.append(_cut(f"{question.text} {without_citations(output.text)}"))
    return human, machine


def mauve_score(records: Sequence[Record], *, model: str, seed: int = 25) -> float:
    """MAUVE in [0, 1] with features of the language model `model`, a folder.

    Raises `BadInput` for a run with too few long answers, `SelfRAGError` without the package.
    """
    human, machine = mauve_texts(records)
    if len(human) < MIN_TEXTS:
        raise BadInput(
            f"cannot compute MAUVE: {len(human)} questions have an answer and a long reference; "
            f"expected at least {MIN_TEXTS}, so evaluate more of the task asqa"
        )
    found = _package().compute_mauve(
        p_text=human,
        q_text=machine,
        featurize_model_name=model,
        max_text_length=512,
        seed=seed,
        verbose=False,
    )
    return float(found.mauve)


def _cut(text: str) -> str:
    return " ".join(text.split()[:MAX_WORDS]).rstrip()


def _package() -> Any:
    try:
        import mauve
    except ImportError as error:
        raise SelfRAGError(
            f'cannot compute MAUVE: {error}; run `pip install "selfrag[mauve]"` (GPL)'
        ) from error
    return mauve
