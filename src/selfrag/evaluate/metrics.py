"""How right one answer is, by every measure that the question allows; MAUVE of all together.

Means and intervals are `statistics`. `None`: the measure does not apply. Text measures: SQuAD
(arXiv 1606.05250) for normalisation, exact match and F1; the released `metrics.py`
(AkariAsai/self-rag 1fcdc42) for `match_released`; ALCE (arXiv 2305.14627) for `str_em` and
`rouge_lsum`; Pillutla et al. (arXiv 2102.01454) for MAUVE, by the package `mauve-text` (GPL,
optional), as ALCE does of question and answer together.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from selfrag.decode.choices import choice_of, only_mentioned
from selfrag.errors import BadInput, MissingPackage
from selfrag.evaluate.record import Output, Question, Record
from selfrag.statistics import require_scipy
from selfrag.text import counted, first_sentence, holds_gold, split_sentences, without_citations

Metric = Callable[[Question, Output], float | None]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
MAX_WORDS = 100  # of question and answer; ALCE cuts there
MIN_TEXTS = 10  # fewer give no distribution to compare


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD)."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def match_released(question: Question, output: Output) -> float | None:
    """1 where a gold string is in the answer, letter for letter: `A` is in `Apple`."""
    if not question.answers:
        return None
    return float(any(gold in output.text for gold in question.answers))


def match_words(question: Question, output: Output) -> float | None:
    """1 where a gold string stands in the answer as whole words, letter case aside."""
    return float(holds_gold(output.text, question.answers)) if question.answers else None


def match_normalised(question: Question, output: Output) -> float | None:
    """1 where a gold string stands in the answer as whole words, both normalised."""
    if not question.answers:
        return None
    text = f" {normalise(output.text)} "
    golds = [normalise(gold) for gold in question.answers]
    return float(any(gold and f" {gold} " in text for gold in golds))


def exact_match(question: Question, output: Output) -> float | None:
    """1 where the answer is a gold string, both normalised."""
    if not question.answers:
        return None
    return float(normalise(output.text) in {normalise(gold) for gold in question.answers})


def token_f1(question: Question, output: Output) -> float | None:
    """The best F1 of words against a gold string, both normalised."""
    if not question.answers:
        return None
    return max(_f1(normalise(output.text).split(), normalise(g).split()) for g in question.answers)


def of_first_sentence(metric: Metric) -> Metric:
    """`metric` of an answer's first sentence: the default weights give the short answer there."""

    def measured(question: Question, output: Output) -> float | None:
        return metric(question, replace(output, text=first_sentence(output.text)))

    measured.__name__ = f"first_{metric.__name__}"
    return measured


def _f1(said: Sequence[str], gold: Sequence[str]) -> float:
    if not said or not gold:  # SQuAD 2: no words agree with no words only
        return float(said == gold)
    n_common = sum((Counter(said) & Counter(gold)).values())
    if not n_common:
        return 0.0
    precision, recall = n_common / len(said), n_common / len(gold)
    return 2 * precision * recall / (precision + recall)


def label_of(question: Question, output: Output) -> str | None:
    """The label of a closed set that an answer gives, or None.

    The one voted for, else the one that the text gives, else the only one whose option
    occurs in it.
    """
    if output.choice in question.labels:
        return output.choice
    said = choice_of(output.text, question.labels)
    if said is not None or not question.options:
        return said
    named = only_mentioned(output.text, question.options)
    return None if named is None else question.labels[question.options.index(named)]


def label_accuracy(question: Question, output: Output) -> float | None:
    """1 where the answer gives the right label of a closed set; no label is wrong."""
    if not question.labels:
        return None
    return float(label_of(question, output) == question.answers[0])


def label_given(question: Question, output: Output) -> float | None:
    """1 where the answer gives any label of a closed set."""
    return float(label_of(question, output) is not None) if question.labels else None


def str_em(question: Question, output: Output) -> float | None:
    """The share of the readings of an ambiguous question whose answer is in the text (ALCE)."""
    if not question.facets:
        return None
    text = normalise(without_citations(output.text))
    held = [any(normalise(gold) in text for gold in facet) for facet in question.facets]
    return sum(held) / len(held)


def rouge_lsum(question: Question, output: Output) -> float | None:
    """ROUGE-Lsum F against the nearest long answer, in [0, 1], sentence by line (ALCE)."""
    if not question.references:
        return None
    scorer = _rouge_scorer()
    said = _lines(without_citations(output.text))
    scores = [scorer.score(_lines(each), said)["rougeLsum"] for each in question.references]
    return max(float(score.fmeasure) for score in scores)


def _lines(text: str) -> str:
    return "\n".join(split_sentences(text))


@cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingPackage(
            f'cannot compute ROUGE: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    return RougeScorer(["rougeLsum"], use_stemmer=True)


def retrieved(question: Question, output: Output) -> float | None:
    """1 where a passage was read on the way to the answer."""
    return float(output.retrieved)


def answer_in_passages(question: Question, output: Output) -> float | None:
    """1 where a passage that the answer rests on holds a gold string."""
    if not question.answers or question.labels:
        return None
    return float(any(holds_gold(hit.passage.text, question.answers) for hit in output.passages))


def abstained(question: Question, output: Output) -> float | None:
    """1 where nothing was said because nothing was supported enough."""
    return float(output.abstained)


def tokens(question: Question, output: Output) -> float | None:
    """Tokens written in all, rejected candidates included."""
    return float(output.n_tokens)


def passages_read(question: Question, output: Output) -> float | None:
    """Passages read in all."""
    return float(output.n_passages)


def words(question: Question, output: Output) -> float | None:
    """Words of the answer."""
    return float(len(output.text.split()))


METRICS: dict[str, Metric] = {
    "match_released": match_released,
    "match_words": match_words,
    "match_normalised": match_normalised,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "first_match_words": of_first_sentence(match_words),
    "first_exact_match": of_first_sentence(exact_match),
    "first_token_f1": of_first_sentence(token_f1),
    "label_accuracy": label_accuracy,
    "label_given": label_given,
    "str_em": str_em,
    "rouge_lsum": rouge_lsum,
    "answer_in_passages": answer_in_passages,
    "retrieved": retrieved,
    "abstained": abstained,
    "passages_read": passages_read,
    "tokens": tokens,
    "words": words,
}
_COUNTS = ("passages_read", "tokens", "words", "seconds", "facts")


def is_share(metric: str) -> bool:
    """Whether a metric, with or without its judge, lies in [0, 1]; others count something."""
    return metric.partition("@")[0] not in _COUNTS


def metrics_named(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of these names, all where none is named; raises `BadInput` listing them.

    Raises `SelfRAGError` where a package that measuring needs is missing: before the work, not
    after it.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise BadInput(
            f"cannot evaluate: there is no metric {unknown[0]!r}; expected some of "
            f"{', '.join(METRICS)}, so name those"
        )
    require_scipy()
    found = {name: METRICS[name] for name in names or METRICS}
    if rouge_lsum in found.values():
        _rouge_scorer()
    return found


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
            f"cannot compute MAUVE: found {counted(len(human), 'question')} with an answer and a "
            f"long reference; expected at least {MIN_TEXTS}, so evaluate more of the task asqa"
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
        raise MissingPackage(
            f'cannot compute MAUVE: {error}; run `pip install "selfrag[mauve]"` (GPL)'
        ) from error
    return mauve
