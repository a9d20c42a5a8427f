"""kill -9 at random moments of the long commands: run again, they end as if nothing had happened.

`python benchmarks/kill_resume.py --kills 20 --out FOLDER --json`. Each of `annotate critic`, `train
critic`, `annotate generator`, `train generator` and `eval` runs once to its end, then again and
again from nothing: its process group is killed at a moment drawn evenly, the same command runs to
its end, and its final files are compared byte by byte with those of the undisturbed run. A process
takes seconds to start, so most moments are drawn from when the work has begun; `EARLY_SHARE` of
them from before. Models are tiny and random, the teacher answers by a hash of the request. What is
in FOLDER is not done again. The last line is one JSON object.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selfrag.annotate.judgement import LABELS
from selfrag.passage import Passage
from selfrag.retrieval.build import build_folder, new_manifest
from selfrag.retrieval.encoder.base import MeanPoolingEncoder
from selfrag.retrieval.writer import FileState, IndexWriter

TESTS = Path(__file__).parents[1] / "tests"
EARLY_SHARE = 0.15
CONCURRENCY = 4
ANSWER_S = 0.03  # so that the calls, and not the start, fill a life
BATCH_SIZE = 2  # questions of `eval`
OUT = "out.jsonl"
RUN = "run"


@dataclass(slots=True)
class Teacher:
    """Answers a chat by its hash alone: a label, or now and then something that is none."""

    n_asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> str:
        """One of the words that the rubric offers."""
        with self.lock:
            self.n_asked += 1
        time.sleep(ANSWER_S)
        first, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        number = zlib.crc32(last.encode())
        words = first.splitlines()[-1].split(": ")[1].strip(".").split(", ")
        return words[number % len(words)] if number % 23 else "perhaps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command, run in a folder of its own.

    `files`: patterns of the files that must be the same. `has_begun` and `has_kept` look at the
    folder: whether work has begun, and whether a second run finds some to go on from. `asks`: a
    teacher is paid.
    """

    arguments: tuple[str, ...]
    files: tuple[str, ...]
    has_begun: Callable[[Path], bool]
    has_kept: Callable[[Path], bool] = lambda folder: False
    asks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill and what came of it. `begun`: `after_s` counts from when the work had begun.

    `asked_again`: requests beyond those of the undisturbed run.
    """

    begun: bool
    after_s: float
    resumed: bool
    asked_again: int
    differences: list[str]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Writes JSON lines; the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def annotate_jobs(inputs: Path, url: str, teacher: Teacher) -> dict[str, Job]:
    """Both kinds of annotation, of seeds and rows of which one is no row."""
    common = ("--teacher", url, "--model", "hash", "--concurrency", str(CONCURRENCY), "--out", OUT)
    seeds = [{"instruction": f"Q{n}", "output": f"A{n}.", "evidence": f"E{n}"} for n in range(70)]
    critic = (write_lines(inputs / "seeds.jsonl", [*seeds, {"instruction": ""}]), *common)
    sentences = "The first sentence is long enough. The second one is long enough as well."
    answers = [{"instruction": f"Question {n}?", "output": sentences} for n in range(70)]
    rows = write_lines(inputs / "rows.jsonl", [*answers, {"instruction": ""}])
    generator = (rows, "--index", str(inputs / "index"), "--top-k", "3", *common)
    files = (OUT, f"{OUT}.rejects.jsonl", f"{OUT}.report.json")
    return {
        f"annotate {name}": Job(
            arguments=("annotate", name, *arguments),
            files=files,
            has_begun=lambda folder: teacher.n_asked > 0,
            asks=True,
        )
        for name, arguments in (("critic", critic), ("generator", generator))
    }


def train_jobs(inputs: Path) -> dict[str, Job]:
    """A critic with LoRA and a generator with all weights, a checkpoint at every step."""
    labelled = [
        {"instruction": f"Judge {n}.", "input": "x", "output": label, "group": group}
        for n in range(10)
        for group, labels in LABELS.items()
        for label in labels
    ]
    answers = [
        {"instruction": f"Q {n}?", "output": f"[No Retrieval]Answer {n}.[Utility:{n % 5 + 1}]"}
        for n in range(150)
    ]
    data = {
        "critic": (write_lines(inputs / "labels.jsonl", labelled), "lora"),
        "generator": (write_lines(inputs / "train.jsonl", answers), "full"),
    }
    small = {"max_tokens": 200, "tokens_per_batch": 200, "save_steps": 1, "lora_rank": 2}
    small |= {"eval_batches": 2, "log_steps": 1}
    settings = [part for key, value in small.items() for part in ("--set", f"train.{key}={value}")]
    places = ("--model", str(inputs / "base"), "--out", RUN)
    weights = (f"{RUN}/adapter/*.safetensors", f"{RUN}/model/*.safetensors")
    rest = ("held_out.jsonl", "rejects.jsonl", "critic.json", "predictions.jsonl")
    return {
        f"train {name}": Job(
            arguments=("train", name, "--data", rows, "--method", method, *places, *settings),
            files=(*weights, *(f"{RUN}/{each}" for each in rest)),
            has_begun=lambda folder: any(folder.glob(f"{RUN}/checkpoints/*")),
            has_kept=lambda folder: any(folder.glob(f"{RUN}/checkpoints/*/complete")),
        )
        for name, (rows, method) in data.items()
    }


def eval_job(inputs: Path) -> Job:
    """Questions with passages of their own, answered by a random model."""
    rows = [
        {"id": f"q{n}", "question": f"Who {n}?", "answers": ["a"], "ctxs": [{"text": f"text {n}"}]}
        for n in range(120)
    ]
    data = write_lines(inputs / "questions.jsonl", rows)
    search = ("max_passage_tokens=40", "max_new_tokens=16", "max_segments=3", "mode=always")
    options = ["--batch-size", str(BATCH_SIZE), *(p for s in search for p in ("--set", s))]
    places = ("--data", data, "--model", str(inputs / "reflecting"), "--out", RUN)

    def n_records(folder: Path) -> int:
        path = folder / RUN / "records.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    return Job(
        arguments=("eval", "--task", "nq_open", *places, *options),
        files=(f"{RUN}/records.jsonl", f"{RUN}/metrics.json"),
        has_begun=lambda folder: n_records(folder) > 0,
        has_kept=lambda folder: n_records(folder) >= BATCH_SIZE,
    )


def make_inputs(inputs: Path) -> None:
    """Two language models, with and without reflection tokens, and an index; once a folder."""
    if (inputs / "index").exists():
        return
    tiny_model: Any = importlib.import_module("tiny_model")
    tiny_bert: Any = importlib.import_module("tiny_bert")
    for name, extra in (("base", []), ("reflecting", tiny_model.TOKENS)):
        (inputs / name).mkdir(parents=True, exist_ok=True)
        tiny_model.save_tiny_model(inputs / name, extra)
    bert = inputs / "bert"
    bert.mkdir(exist_ok=True)
    tiny_bert.save_tiny_bert(bert)
    encoder = MeanPoolingEncoder(bert, name=str(bert))
    words = tiny_bert.WORDS
    passages = [
        Passage(id=str(n), title=f"T{n}", text=" ".join(words[(n + k) % 9] for k in range(9)))
        for n in range(9)
    ]

    def fill(writer: IndexWriter) -> None:
        writer.put_file(FileState(file="f", version="1"), iter(passages))

    build_folder(inputs / "index", encoder, new_manifest(encoder.spec), fill)


class Bench:
    """One command, killed over and over; what is known of it is kept in `folder`."""

    def __init__(self, job: Job, folder: Path, teacher: Teacher) -> None:
        self._job, self._folder, self._teacher = job, folder, teacher
        self._whole = folder / "whole"
        self._facts_path = folder / "whole.json"
        self._kills_path = folder / "kills.jsonl"

    def measure(self, n_kills: int, seed: Sequence[int]) -> dict[str, Any]:
        """Kills until there are `n_kills`, each with a generator of its own; the counts."""
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = self._undisturbed()
        n_done = len(self._kills())
        n_early = round(EARLY_SHARE * n_kills)
        for number in range(n_done, n_kills):
            rng = np.random.default_rng([*seed, number])
            kill = self._kill(number, facts, rng, early=number < n_early)
            with self._kills_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(kill)) + "\n")
            tell(f"{self._folder.name}: kill {number + 1} of {n_kills}: {kill}")
        return {**self._counts(n_kills), **facts}

    def _kills(self) -> list[dict[str, Any]]:
        if not self._kills_path.is_file():
            return []
        return [json.loads(line) for line in self._kills_path.read_text().splitlines()]

    def _counts(self, n_kills: int) -> dict[str, Any]:
        kills = self._kills()[:n_kills]
        return {
            "kills": len(kills),
            "identical": sum(not kill["differences"] for kill in kills),
            "resumed": sum(kill["resumed"] for kill in kills),
            "asked_again_at_most": max((kill["asked_again"] for kill in kills), default=0),
            "differences": [
                f"kill {number}: {each}"
                for number, kill in enumerate(kills)
                for each in kill["differences"]
            ],
        }

    def _undisturbed(self) -> dict[str, Any]:
        """Seconds to where the work begins and to the end, and requests, of a run left alone."""
        if not self._facts_path.is_file():
            process, started = self._start(self._whole), time.monotonic()
            begun_s = self._until_begun(process, self._whole) - started
            self._end(process, self._whole)
            facts = {"begun_s": begun_s, "life_s": time.monotonic() - started}
            rounded = {name: round(value, 2) for name, value in facts.items()}
            content = json.dumps({**rounded, "asked": self._teacher.n_asked})
            self._facts_path.write_text(content, encoding="utf-8")
        found: dict[str, Any] = json.loads(self._facts_path.read_text(encoding="utf-8"))
        return found

    def _kill(
        self, number: int, facts: dict[str, Any], rng: np.random.Generator, *, early: bool
    ) -> Kill:
        """Draws until a moment lies within the life; then runs again and compares."""
        folder = self._folder / f"kill-{number}"
        span = facts["begun_s"] if early else facts["life_s"] - facts["begun_s"]
        while True:
            after_s = float(rng.uniform(0, span))
            process, since = self._start(folder), time.monotonic()
            if not early:
                since = self._until_begun(process, folder)
            try:
                process.wait(timeout=max(0.0, since + after_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        has_kept, n_before = self._job.has_kept(folder), self._teacher.n_asked
        self._end(self._start(folder, anew=False), folder)
        n_asked = self._teacher.n_asked
        differences = self._differences(folder)
        if self._job.asks and n_asked > facts["asked"] + CONCURRENCY:
            differences.append(f"{n_asked - facts['asked']} answers paid twice")
        if not differences:
            shutil.rmtree(folder)
        return Kill(
            begun=not early,
            after_s=round(after_s, 3),
            resumed=has_kept or n_asked - n_before < facts["asked"],
            asked_again=n_asked - facts["asked"],
            differences=differences,
        )

    def _start(self, folder: Path, *, anew: bool = True) -> "subprocess.Popen[bytes]":
        """The command as a group of its own; `anew` in an empty folder, with no request so far."""
        if anew:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._teacher.n_asked = 0
        with (self._folder / "output.txt").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "selfrag", *self._job.arguments],
                cwd=folder,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _until_begun(self, process: "subprocess.Popen[bytes]", folder: Path) -> float:
        """When the work had begun, on the monotonic clock."""
        while process.poll() is None and not self._job.has_begun(folder):
            time.sleep(0.002)
        return time.monotonic()

    def _end(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        if process.wait():
            said = (self._folder / "output.txt").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{self._job.arguments} in {folder} failed:\n{said[-3000:]}")

    def _differences(self, folder: Path) -> list[str]:
        """Files that only one of the runs has, and those of `files` with other bytes."""
        names = [
            {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
            for root in (self._whole, folder)
        ]
        found = [f"{name}: lacking or too much" for name in sorted(names[0] ^ names[1])]
        paths = [path for pattern in self._job.files for path in self._whole.glob(pattern)]
        relative = [path.relative_to(self._whole) for path in paths]
        found += [
            f"{name}: other bytes"
            for name in relative
            if (folder / name).is_file()
            and (folder / name).read_bytes() != (self._whole / name).read_bytes()
        ]
        return found


def environment() -> dict[str, str]:
    """Variables for the source tree beside this file, and for one thread."""
    paths = [str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def tell(text: str) -> None:
    """How far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def all_jobs(inputs: Path) -> Iterator[tuple[dict[str, Job], Teacher]]:
    """The five commands, and the teacher while it listens."""
    chat: Any = importlib.import_module("chat_server")
    make_inputs(inputs)
    teacher = Teacher()
    with chat.chat_server(lambda body: chat.chat_reply(teacher.answer(body))) as server:
        jobs = annotate_jobs(inputs, server.url, teacher) | train_jobs(inputs)
        yield {**jobs, "eval": eval_job(inputs)}, teacher


def measure(root: Path, commands: Sequence[str], n_kills: int, seed: int) -> dict[str, Any]:
    """The counts of every command; work in `root`, which may hold some already."""
    with all_jobs(root / "inputs") as (jobs, teacher):
        counts = {}
        for place, (name, job) in enumerate(jobs.items()):
            if commands and name not in commands:
                continue
            bench = Bench(job, root / name.replace(" ", "-"), teacher)
            counts[name] = bench.measure(n_kills, (seed, place))
        return counts


def main() -> None:
    """Parses the arguments and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", action="append", help="as in 'train critic'; all if not given")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to work in, to go on in")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.out or Path(scratch)).resolve()
        result = measure(root, options.command or [], options.kills, options.seed)
    if options.json:
        print(json.dumps(result))
        return
    for name, counts in result.items():
        print(name, *(f"{key} {value}" for key, value in counts.items()), sep="\n  ")


if __name__ == "__main__":
    main()
