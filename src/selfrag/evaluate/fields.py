"""Fields of a row, whatever a set calls them: question, gold strings, options, passages.

Names are those of the released evaluation files (AkariAsai/self-rag 1fcdc42), ALCE, FlashRAG, and
of the sets as their authors publish them. Every function raises `ValueError` that says what is
wrong; the caller knows the row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from selfrag.passage import Passage
from selfrag.rows import gold_strings, id_of

Row = Mapping[str, Any]

QUESTION_KEYS = ("question", "query", "claim", "input", "prompt", "instruction")
GOLD_KEYS = (
    "answers",
    "answer",
    "golden_answers",
    "possible_answers",
    "ground_truth",
    "answers_text",
    "label",
    "gold_label",
)
PASSAGE_KEYS = ("ctxs", "docs", "top_contexts", "passages", "paragraphs", "context")
ONE_PASSAGE_KEYS = ("passage", "context", "evidence")
ID_KEYS = ("id", "qid", "sample_id", "question_id", "q_id")
LETTERS = "ABCDEFGH"


def text_at(row: Row, keys: Sequence[str]) -> str:
    """The first of `keys` that holds text."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise ValueError(f"none of the fields {', '.join(keys)} holds text")


def row_id(row: Row) -> str:
    """The row's own name, empty if it has none."""
    return id_of(row, *ID_KEYS).strip()


def golds_of(row: Row, keys: Sequence[str] = GOLD_KEYS) -> tuple[str, ...]:
    """The gold strings of the first of `keys` that has any, each once; see `rows.gold_strings`."""
    for key in keys:
        if golds := gold_strings(row.get(key), key):
            return golds
    raise ValueError(f"none of the fields {', '.join(keys)} holds a gold answer")


def options_of(row: Row) -> tuple[str, ...]:
    """The texts of the options, in order: a list, or `choices.text`."""
    choices = row.get("choices", row.get("options"))
    if isinstance(choices, Mapping):
        choices = choices.get("text")
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise ValueError("the field choices holds no options")
    options = tuple(str(choice).strip() for choice in choices)
    if not 2 <= len(options) <= len(LETTERS) or not all(options):
        raise ValueError(f"choices holds {len(options)} options, expected 2 to 8, none empty")
    return options


def gold_letter(row: Row, options: Sequence[str]) -> str:
    """The letter of the right option.

    `answerKey` is a letter, or a number that is a label or counts from 1; `gold` and a FlashRAG
    answer index count from 0; a gold answer may also be the text of an option.
    """
    choices = row.get("choices")
    labels = choices.get("label", []) if isinstance(choices, Mapping) else []
    key = str(row.get("answerKey", "")).strip()
    if key and key in labels:
        return LETTERS[list(labels).index(key)]
    if len(key) == 1 and key.upper() in LETTERS[: len(options)]:
        return key.upper()
    if key.isdecimal() and 1 <= int(key) <= len(options):
        return LETTERS[int(key) - 1]
    place = row.get("gold", row.get("answer_index"))
    if type(place) is int and 0 <= place < len(options):
        return LETTERS[place]
    golds = golds_of(row)
    for number, option in enumerate(options):
        if option in golds or LETTERS[number] in golds:
            return LETTERS[number]
    raise ValueError(f"no option is the gold answer (answerKey {key!r}, gold {place!r})")


def passages_of(row: Row, prefix: str) -> tuple[Passage, ...]:
    """The passages that come with a row, in order, those without text left out.

    One without an id of its own gets one from `prefix` and its place.
    """
    for key in PASSAGE_KEYS:
        value = row.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            found = [_passage(each, f"{prefix}-{n}") for n, each in enumerate(value, start=1)]
            return _unique([passage for passage in found if passage.text.strip()])
    for key in ONE_PASSAGE_KEYS:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return (_passage(value, f"{prefix}-1"),)
    return ()


def _passage(value: Any, fallback: str) -> Passage:
    if isinstance(value, str):
        return Passage(id=fallback, title="", text=value)
    if not isinstance(value, Mapping):
        raise ValueError(f"a passage is {value!r:.40}, expected an object with title and text")
    text = value.get("text", value.get("contents", value.get("snippet", "")))
    named = value.get("id", value.get("pid", value.get("docid")))
    if not isinstance(text, str):
        raise ValueError(f"the text of a passage is {text!r:.40}, expected a string")
    return Passage(
        id=fallback if named in (None, "") else str(named),
        title=str(value.get("title") or ""),
        text=text,
        source=str(value.get("url") or value.get("source") or ""),
    )


def _unique(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Passages by id, the first of equals: an id that stands for two texts would be cited twice."""
    seen: dict[str, Passage] = {}
    for passage in passages:
        seen.setdefault(passage.id, passage)
    return tuple(seen.values())
