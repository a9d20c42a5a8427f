"""Citation recall and precision, as ALCE defines them, with any judge of entailment.

ALCE (arXiv 2305.14627), section 4.3, and princeton-nlp/ALCE 246c476, `eval.py`. Recall: the share
of sentences that their cited passages together entail. Precision: the share of citations that are
needed; one is not where its passage alone does not entail the sentence and the others do.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from selfrag.evaluate.record import Output, Record
from selfrag.passage import Passage
from selfrag.text import split_sentences

MAX_CITATIONS = 3  # of a sentence; ALCE's default
ENTAILED = 0.5  # a judge's probability above this is a yes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Does `premise` entail `hypothesis`? `question` is what both are about."""

    question: str
    premise: str
    hypothesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CitationScores:
    """Of one answer, each in [0, 1]; an answer that cites nothing has precision 0."""

    recall: float
    precision: float


Entails = Callable[[Claim], bool]


def cited_sentences(output: Output) -> list[tuple[str, tuple[int, ...]]]:
    """The sentences of an answer with their citations; one of several in a segment has those of it.

    Of more than `MAX_CITATIONS` the first count.
    """
    return [
        (text, sentence.citations[:MAX_CITATIONS])
        for sentence in output.sentences
        for text in split_sentences(sentence.text)
    ]


def claims_of(question: str, output: Output) -> Iterator[Claim]:
    """All that `citation_scores` may ask of this answer."""
    for text, numbers in cited_sentences(output):
        for premise in _premises(output, numbers):
            yield Claim(question=question, premise=premise, hypothesis=text)


def citation_scores(question: str, output: Output, entails: Entails) -> CitationScores | None:
    """Recall and precision of one answer; None where nothing was said."""
    sentences = cited_sentences(output)
    if not sentences:
        return None
    n_entailed = n_needed = n_citations = 0
    for text, numbers in sentences:
        n_citations += len(numbers)

        def supports(cited: Sequence[int], text: str = text) -> bool:
            premise = join_passages(output, cited)
            return entails(Claim(question=question, premise=premise, hypothesis=text))

        if not numbers or not supports(numbers):
            continue
        n_entailed += 1
        n_needed += sum(_is_needed(number, numbers, supports) for number in numbers)
    return CitationScores(
        recall=n_entailed / len(sentences),
        precision=n_needed / n_citations if n_citations else 0.0,
    )


def _is_needed(
    number: int, numbers: Sequence[int], supports: Callable[[Sequence[int]], bool]
) -> bool:
    if len(numbers) == 1 or supports([number]):
        return True
    return not supports([other for other in numbers if other != number])


def _premises(output: Output, numbers: Sequence[int]) -> Iterator[str]:
    if not numbers:
        return
    yield join_passages(output, numbers)
    if len(numbers) > 1:
        for number in numbers:
            yield join_passages(output, [number])
            yield join_passages(output, [other for other in numbers if other != number])


def join_passages(output: Output, numbers: Iterable[int]) -> str:
    """The cited passages as one premise, each with its title, as ALCE writes them."""
    return "\n".join(document(output.passages[number - 1].passage) for number in numbers)


def document(passage: Passage) -> str:
    """A passage with its title, where it has one."""
    return f"Title: {passage.title}\n{passage.text}" if passage.title else passage.text


def score_citations(records: Iterable[Record], entails: Entails) -> dict[str, dict[str, float]]:
    """`citation_recall` and `citation_precision` by question id; failed questions have none."""
    recall: dict[str, float] = {}
    precision: dict[str, float] = {}
    for record in records:
        if record.output is None:
            continue
        found = citation_scores(record.question.text, record.output, entails)
        if found is not None:
            recall[record.question.id] = found.recall
            precision[record.question.id] = found.precision
    return {"citation_recall": recall, "citation_precision": precision}
