"""The tasks: how a row becomes a question, how it is asked, how it is judged.

Instructions and separators are those of the released scripts (AkariAsai/self-rag 1fcdc42,
`run_short_form.py`, `run_long_form_static.py`, `utils.py`), also where they differ from the
paper's text, because the published numbers come from them. Knows nothing of files or systems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from selfrag.errors import BadInput
from selfrag.evaluate.fields import (
    GOLD_KEYS,
    LETTERS,
    QUESTION_KEYS,
    Row,
    gold_letter,
    golds_of,
    options_of,
    text_at,
)
from selfrag.evaluate.record import Question

CLAIM = "Is the following statement correct or not? Say true if it's correct; otherwise say false."
FOUR_OPTIONS = "Given four answer candidates, A, B, C and D, choose the best answer choice."
AMBIGUOUS = (
    "Answer the following question. The question may be ambiguous and have multiple correct "
    "answers, and in that case, you have to provide a long-form answer including all correct "
    "answers."
)
YES_NO = "Answer the following question. Say yes if it is so; otherwise say no."  # not released

_TRUTH = {
    "true": "true",
    "false": "false",
    "supports": "true",
    "supported": "true",
    "refutes": "false",
    "refuted": "false",
}
_SAID = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


class Form(StrEnum):
    """What is asked for."""

    OPEN = "open"  # a short answer in words
    CLOSED = "closed"  # one label of a set
    LONG = "long"  # sentences with citations


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of question file. `read` makes a question of a row, without number and passages.

    `headline`: the metric that stands for the task. `top_k`, `max_new_tokens` and `max_segments`
    are those of the released commands. `expects`: the file to bring, in words.
    """

    name: str
    form: Form
    headline: str
    read: Callable[[Row], Question]
    top_k: int
    max_new_tokens: int
    max_segments: int = 1
    expects: str


def read_open(row: Row) -> Question:
    """A question with gold strings; the model reads the bare question."""
    text = text_at(row, QUESTION_KEYS)
    return Question(text=text, instruction=text, answers=golds_of(row))


def read_claim(row: Row) -> Question:
    """A claim that is true or false; a claim without a verdict cannot be judged so."""
    text = text_at(row, ("claim", "question", "sentence2", "query", "input"))
    truth = _label(row, ("answers", "label", "gold_label", "golden_answers", "answer"), _TRUTH)
    instruction = f"{CLAIM}\n\n## Input:\n\n{text}"
    return Question(text=text, instruction=instruction, answers=(truth,), labels=("true", "false"))


def read_yes_no(row: Row) -> Question:
    """A question whose answer is yes or no."""
    text = text_at(row, QUESTION_KEYS)
    said = _label(row, ("answer", "answers", "golden_answers", "label"), _SAID)
    instruction = f"{YES_NO}\n\n## Input:\n\n{text}"
    return Question(text=text, instruction=instruction, answers=(said,), labels=("yes", "no"))


def read_options(row: Row) -> Question:
    """A stem with options A, B, C, …; numeric keys become letters, all options are shown."""
    stem = text_at(row, ("question", "question_stem", "query"))
    options = options_of(row)
    listed = "".join(f"\n{LETTERS[n]}: {option}" for n, option in enumerate(options))
    labels = tuple(LETTERS[: len(options)])
    return Question(
        text=stem,
        instruction=f"{FOUR_OPTIONS}\n\n### Input:\n{stem}{listed}",
        answers=(gold_letter(row, options),),
        labels=labels,
        options=options,
    )


def read_asqa(row: Row) -> Question:
    """An ambiguous question with gold strings for each of its readings, and long answers."""
    text = text_at(row, ("ambiguous_question", *QUESTION_KEYS))
    pairs = row.get("qa_pairs") or []
    facets = tuple(golds_of(pair, ("short_answers", "answers")) for pair in pairs)
    notes = row.get("annotations") or []
    long = [str(each.get("long_answer", "")) for each in notes]
    long += [str(each) for each in (row.get("generation_gt") or [])]
    if not long and isinstance(row.get("answer"), str):
        long = [row["answer"]]
    references = tuple(answer for answer in long if answer.strip())
    if not facets and not references:
        raise ValueError("neither qa_pairs nor a long answer is there to judge by")
    answers = tuple(dict.fromkeys(gold for facet in facets for gold in facet))
    return Question(
        text=text,
        instruction=f"{AMBIGUOUS}## Input:\n\n{text}",
        answers=answers,
        facets=facets,
        facet_questions=tuple(str(pair.get("question") or "") for pair in pairs),
        references=references,
    )


def read_biography(row: Row) -> Question:
    """A request for a biography; nothing is known to be right beforehand."""
    topic = text_at(row, ("topic", "entity", "title"))
    instruction = text_at({"input": f"Question: Tell me a bio of {topic}.", **row}, ("input",))
    return Question(text=topic, instruction=instruction, topic=topic)


def _label(row: Row, keys: Sequence[str], meaning: dict[str, str]) -> str:
    said = golds_of(row, [key for key in keys if key in GOLD_KEYS])[0]
    if said.lower() not in meaning:
        raise ValueError(f"the gold label is {said!r}, expected one of {', '.join(meaning)}")
    return meaning[said.lower()]


OPEN_FILE = "JSONL with `question`, `answers` (a list) and, if you have them, `ctxs`"
CLAIM_FILE = "JSONL with `question` or `claim`, and `label` (SUPPORTS, REFUTES, true or false)"
OPTIONS_FILE = "JSONL with `question`, `choices` (a list or {text, label}) and `answerKey`"


def _open(name: str, expects: str = OPEN_FILE, top_k: int = 10) -> Task:
    return Task(
        name=name,
        form=Form.OPEN,
        headline="match_released",
        read=read_open,
        top_k=top_k,
        max_new_tokens=100,
        expects=expects,
    )


def _closed(name: str, read: Callable[[Row], Question], expects: str) -> Task:
    return Task(
        name=name,
        form=Form.CLOSED,
        headline="label_accuracy",
        read=read,
        top_k=5,
        max_new_tokens=50,
        expects=expects,
    )


def _long(name: str, headline: str, read: Callable[[Row], Question], expects: str) -> Task:
    return Task(
        name=name,
        form=Form.LONG,
        headline=headline,
        read=read,
        top_k=5,
        max_new_tokens=300,
        max_segments=6,
        expects=expects,
    )


TASKS = {
    task.name: task
    for task in (
        _open("popqa", f"popqa_longtail_w_gs.jsonl of the release (1,399 rows), or {OPEN_FILE}"),
        _open("triviaqa", f"triviaqa_test_w_gs.jsonl of the release (7,313 rows), or {OPEN_FILE}"),
        _open("nq_open"),
        _open("squad_open"),
        _closed(
            "pubhealth",
            read_claim,
            f"health_claims_processed.jsonl of the release (987 rows), or {CLAIM_FILE}",
        ),
        _closed(
            "arc_challenge",
            read_options,
            f"arc_challenge_processed.jsonl of the release (1,172 rows), or {OPTIONS_FILE}",
        ),
        _closed("openbookqa", read_options, OPTIONS_FILE),
        _closed(
            "boolq", read_yes_no, "JSONL with `question`, `answer` (true, false) and `passage`"
        ),
        _closed("fever", read_claim, CLAIM_FILE),
        _long(
            "asqa",
            "str_em",
            read_asqa,
            "asqa_eval_gtr_top100.json of the ALCE data (948 rows): `question`, `qa_pairs`, "
            "`annotations`, `docs`",
        ),
        _long(
            "biographies",
            "tokens",
            read_biography,
            "factscore_unlabeled_alpaca_13b_retrieval.jsonl of the release (500 rows): `input`, "
            "`topic`, `ctxs`",
        ),
    )
}


def task_named(name: str) -> Task:
    """The task of this name; raises `BadInput` that lists them all."""
    if name not in TASKS:
        raise BadInput(
            f"cannot evaluate: there is no task {name!r}; expected one of {', '.join(TASKS)}, "
            "so name one"
        )
    return TASKS[name]
