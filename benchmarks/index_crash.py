"""kill -9 at random moments while an index is built and changed; then everything is counted.

`python benchmarks/index_crash.py --rounds 100 --json`. Every round one process builds an index and
then adds, replaces and deletes files in it, writing down after each commit what is sure; it is
killed at a random moment of its life, which the last one that was not killed tells. Only rounds
with a kill count. What was sure must be there whole, nothing twice, and the
same commands must bring the index to its end. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfrag.errors import IndexNotUsable
from selfrag.passage import Passage
from selfrag.retrieval import writer as writer_module
from selfrag.retrieval.build import build_folder, new_manifest, open_writer
from selfrag.retrieval.spec import EncoderSpec
from selfrag.retrieval.table import PASSAGES, connect
from selfrag.retrieval.verify import verify_index
from selfrag.retrieval.writer import FileState, IndexWriter

DIM = 64
# So many files that writing, and not starting, fills most of a life.
FIRST_FILES = [f"file-{number}" for number in range(100)]
PASSAGES_A_FILE = 60


class LetterEncoder:
    """Unit vectors from letters: quick, and the same in every process."""

    spec = EncoderSpec(name="letters", dim=DIM)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (n_texts, DIM), rows of length 1."""
        vectors = np.zeros((len(texts), DIM), dtype=np.float32)
        for row, text in enumerate(texts):
            letters = np.frombuffer(text.encode(), dtype=np.uint8)
            vectors[row] = np.bincount(letters % DIM, minlength=DIM)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the index: a file in a version, or none for its deletion."""

    file: str
    version: str | None


def steps_after_build() -> list[Step]:
    """Files added, replaced and taken out, always the same."""
    steps = [Step(f"more-{number}", "1") for number in range(60)]
    steps += [Step(name, "2") for name in FIRST_FILES[::3]]
    steps += [Step(name, None) for name in FIRST_FILES[1::4]]
    return steps


def passages_of(file: str, version: str) -> Iterator[Passage]:
    """The passages of one version of one file."""
    for number in range(PASSAGES_A_FILE):
        text = f"passage {number} of {file} in version {version} about topic {number % 7}"
        yield Passage(id=f"{file}/{version}/{number}", title=file, text=text, source=file)


def work(path: Path, sure: Path) -> None:
    """Everything from nothing to the end; goes on where an earlier call stopped."""
    # Commits come from `flush` alone, so that what is told as sure too early is lost by a kill.
    writer_module.BATCH_SIZE, writer_module._ROWS_A_COMMIT = 16, 4096
    encoder = LetterEncoder()
    with sure.open("a", encoding="utf-8") as log:

        def note(step: Step) -> None:
            log.write(f"{step.file}\t{step.version or ''}\n")
            log.flush()

        def put(writer: IndexWriter, step: Step) -> None:
            if step.version is None:
                writer.delete_files([step.file])
            else:
                state = FileState(file=step.file, version=step.version)
                writer.put_file(state, passages_of(step.file, step.version))
                writer.flush()
            note(step)

        def fill(writer: IndexWriter) -> None:
            for name in FIRST_FILES:
                put(writer, Step(name, "1"))

        if not path.exists():
            build_folder(path, encoder, new_manifest(encoder.spec), fill)
        with open_writer(path, encoder) as writer:
            for step in steps_after_build():
                put(writer, step)


def rows_in(path: Path) -> Counter[str]:
    """How often each passage id is there."""
    table = connect(path).open_table(PASSAGES)
    return Counter(table.search().select(["id"]).to_arrow()["id"].to_pylist())


def harm(path: Path, sure: Path) -> tuple[int, int]:
    """(1 where the index is corrupt, passages that were sure and are not as they were left)."""
    built = path if path.exists() else path.parent / f".{path.name}.building"
    lines = sure.read_text(encoding="utf-8").splitlines() if sure.exists() else []
    if not built.exists() or not lines:
        return 0, 0
    try:
        rows = rows_in(built)
    except (OSError, RuntimeError, ValueError, IndexNotUsable):
        return 1, 0
    bad = [check for check in verify_index(path) if not check.ok] if path.exists() else []
    # A file that was being put is there in part: that is what `files` tells.
    corrupt = int(any(check.name != "files" for check in bad) or max(rows.values(), default=1) > 1)
    left = {file: version for file, version in (line.split("\t") for line in lines)}
    doing = next(
        (s for s in steps_after_build() if f"{s.file}\t{s.version or ''}" not in lines), None
    )
    lost = 0
    for file, version in left.items():
        if doing is not None and file == doing.file:
            continue  # the next step may have been taken before it was written down
        if version:
            lost += sum(rows[found.id] != 1 for found in passages_of(file, version))
        else:
            lost += sum(name.startswith(f"{file}/") for name in rows)
    return corrupt, lost


def final_state(path: Path) -> Counter[str]:
    """The ids that the whole work leaves."""
    left = dict.fromkeys(FIRST_FILES, "1")
    for step in steps_after_build():
        if step.version is None:
            left.pop(step.file)
        else:
            left[step.file] = step.version
    return Counter(p.id for file, version in left.items() for p in passages_of(file, version))


def child(folder: Path) -> "subprocess.Popen[bytes]":
    """Starts the work in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, "--work", str(folder)], stdout=subprocess.DEVNULL
    )


def measure(rounds: int, seed: int) -> dict[str, float]:
    """Counts over all rounds."""
    rng = np.random.default_rng(seed)
    corrupt = lost = unequal = kills = escaped = 0
    with tempfile.TemporaryDirectory() as root:
        started = time.monotonic()
        if child(Path(root) / "whole").wait():
            raise RuntimeError("the work fails even when nobody kills it")
        life = time.monotonic() - started
        while kills < rounds and escaped <= rounds:
            folder = Path(root) / str(kills + escaped)
            path, sure = folder / "index", folder / "sure"
            started = time.monotonic()
            process = child(folder)
            try:
                process.wait(timeout=float(rng.uniform(0.1, 1.0)) * life)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            else:
                escaped += 1
                life = time.monotonic() - started
            new_corrupt, new_lost = harm(path, sure)
            corrupt, lost = corrupt + new_corrupt, lost + new_lost
            if child(folder).wait() or rows_in(path) != final_state(path):
                unequal += 1
            done = f"{kills} kills, {escaped} escaped, {corrupt} corrupt, {lost} lost"
            print(f"{done}, {unequal} not brought to the end", file=sys.stderr, flush=True)
    return {
        "rounds": kills + escaped,
        "kills": kills,
        "corrupt": corrupt,
        "lost": lost,
        "not_resumed": unequal,
        "life_s": round(life, 2),
    }


def main() -> None:
    """Parses the arguments and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        options.work.mkdir(exist_ok=True)
        work(options.work / "index", options.work / "sure")
        return
    result = measure(options.rounds, options.seed)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>12}  {value}")


if __name__ == "__main__":
    main()
