"""`selfrag ask`, `chat`, `batch`, `replay` and `demo`: questions in, answers out."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from selfrag import assets
from selfrag.cli import options, render
from selfrag.cli.console import Reporter, print_json, stderr, stdout
from selfrag.cli.questions import question_from
from selfrag.compat.output import follow_reference, reference_json
from selfrag.decode.answer import Answer, answer_questions, answer_to_json, collect_answers
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import search as run_search
from selfrag.decode.events import Event
from selfrag.errors import BadInput, StorageError, UserError
from selfrag.open import indexes
from selfrag.open.engines import ModelOptions
from selfrag.prompt import Turn
from selfrag.serial import override
from selfrag.trace.file import load_trace, save_trace

Question = Annotated[str | None, typer.Argument(help="The question; - reads it from stdin.")]
Trace = Annotated[Path | None, typer.Option("--trace", help="JSONL file to add the trace to.")]


DEMO_QUESTIONS = (
    "Which planet has the moon Titan?",
    "Who painted the Mona Lisa?",
    "Leave odd one out: twitter, instagram, whatsapp.",
)


class Compat(StrEnum):
    """Whose decisions are followed instead of ours."""

    REFERENCE = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Options of the released scripts that have no setting here; score terms are always on."""

    max_depth: Annotated[
        int | None, typer.Option("--max_depth", help="Segments at most plus one, as released.")
    ] = None
    use_groundness: Annotated[bool, typer.Option("--use_groundness", hidden=True)] = True
    use_utility: Annotated[bool, typer.Option("--use_utility", hidden=True)] = True
    use_seqscore: Annotated[bool, typer.Option("--use_seqscore", hidden=True)] = True
    compat: Annotated[
        Compat | None, typer.Option(help="Decide as the released scripts, faults included.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What of an answer is shown and kept."""

    explain: Annotated[bool, typer.Option("--explain", help="Show the whole tree.")] = False
    stream: Annotated[bool, typer.Option("--stream", help="Tell every step as it comes.")] = False
    trace: Trace = None
    as_json: options.Json = False


@options.command
def ask(
    *,
    question: Question = None,
    index: options.Index = None,
    model: ModelOptions,
    search: SearchConfig,
    changes: options.Changes = None,
    released: Released,
    show: Show,
) -> None:
    """Answer one question, with citations and scores."""
    if released.max_depth is not None:
        search = replace(search, max_segments=max(1, released.max_depth - 1))
    search = override(search, changes or [], table="decode")
    text = question_from(question)
    if released.compat is Compat.REFERENCE:
        depth = released.max_depth or 0
        _follow(text, index, model, search, max_depth=depth, as_json=show.as_json)
    else:
        _answer_one(text, index, model, search, show)


def _follow(
    text: str,
    index: str | None,
    model: ModelOptions,
    config: SearchConfig,
    *,
    max_depth: int,
    as_json: bool,
) -> None:
    store, engine = indexes.load(index, model, Reporter())
    hits = store.search([text], config.top_k)[0]
    answer = follow_reference(text, hits, engine, config, max_depth=max_depth)
    if as_json:
        print_json(reference_json(text, answer))
    else:
        render.show_reference(stdout, answer)


def _answer_one(
    text: str,
    index: str | None,
    model: ModelOptions,
    config: SearchConfig,
    show: Show,
) -> None:
    started = time.perf_counter()
    store, engine = indexes.load(index, model, Reporter())
    loaded = time.perf_counter()
    events: list[Event] = []
    found = run_search([text], engine=engine, retriever=store, config=config)
    told = render.narrate(stdout, found) if show.stream else found
    (answer,) = collect_answers([text], told, configs=[config], on_event=events.append)
    timing = {"load": loaded - started, "answer": time.perf_counter() - loaded}
    if show.trace is not None:
        save_trace(show.trace, [text], events, config=config)
    if show.as_json:
        print_json(_answer_json(answer, timing, engine.name, str(index or "demo")))
        return
    if show.explain:
        render.show_tree(stdout, text, events)
        stdout.print()
    render.show_answer(stdout, answer)


@options.command
def replay(
    trace: Annotated[Path, typer.Argument(help="JSONL file written with --trace.")],
    as_json: options.Json = False,
) -> None:
    """Show the trees and answers of recorded searches again, without a model."""
    recorded = load_trace(trace)
    told: dict[int, list[Event]] = {number: [] for number in range(len(recorded.questions))}
    for event in recorded.events:
        told[event.question].append(event)
    answers: list[Answer] = []
    for question, events in zip(recorded.questions, told.values(), strict=True):
        found = collect_answers(recorded.texts, events, configs=recorded.configs)
        answers += found
        if not as_json:
            render.show_tree(stdout, question.text, events)
            for answer in found:
                render.show_answer(stdout, answer)
    if as_json:
        print_json([answer_to_json(answer) for answer in answers])


@options.command
def chat(
    *,
    index: options.Index = None,
    model: ModelOptions,
    search: SearchConfig,
    changes: options.Changes = None,
) -> None:
    """Ask one question after another; earlier turns are context. An empty line ends."""
    config = override(search, changes or [], table="decode")
    store, engine = indexes.load(index, model, Reporter())
    turns: list[Turn] = []
    for question in _lines_of(sys.stdin, prompt="> "):
        try:
            (answer,) = answer_questions(
                [question], engine=engine, retriever=store, config=config, histories=[turns]
            )
        except UserError as error:  # the conversation so far is kept
            stderr.print(f"selfrag: {error}", markup=False, soft_wrap=True)
            continue
        render.show_answer(stdout, answer)
        turns.append(Turn(question=question, answer=answer.text))


def _lines_of(stream: Any, *, prompt: str) -> Iterator[str]:
    """What is typed, line by line, until an empty line or the end; a prompt is for people only."""
    while True:
        if stream.isatty():
            stdout.print(prompt, end="")
        line = stream.readline().strip()
        if not line:
            return
        yield line


@options.command
def batch(
    *,
    questions: Annotated[Path, typer.Argument(help="JSONL with `question` in every row.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL of answers to write.")],
    index: options.Index = None,
    model: ModelOptions,
    search: SearchConfig,
    batch_size: Annotated[int, typer.Option(help="Questions searched together.")] = 8,
    changes: options.Changes = None,
    trace: Trace = None,
) -> None:
    """Answer many questions; rows may hold `answers`, which traces keep for `rescore`."""
    config = override(search, changes or [], table="decode")
    if batch_size < 1:
        raise BadInput(f"cannot answer: --batch-size is {batch_size}; expected at least 1")
    rows = _read_questions(questions)
    report = Reporter()
    store, engine = indexes.load(index, model, report)
    done: list[dict[str, Any]] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        texts = [str(row["question"]) for row in part]
        events: list[Event] = []
        answers = answer_questions(
            texts, engine=engine, retriever=store, config=config, on_event=events.append
        )
        done += [
            {**{key: row[key] for key in ("id", "answers") if key in row}, **answer_to_json(answer)}
            for row, answer in zip(part, answers, strict=True)
        ]
        if trace is not None:
            golds = [row.get("answers") or [] for row in part]
            ids = [str(row.get("id") or "") for row in part]
            save_trace(trace, texts, events, answers=golds, ids=ids, config=config)
        report.progress("answering", len(done), len(rows))
    _write_lines(out, done)
    stdout.print(f"answered {len(done)} questions in {out}", markup=False)


def _read_questions(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read questions from {path}: {error}; expected a JSONL file in UTF-8, so name "
            "another"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_question_row(path, number, line))
    if not rows:
        raise BadInput(
            f"cannot answer: {path} holds no questions; expected JSONL rows with `question`"
        )
    return rows


def _question_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not str(row.get("question") or "").strip():
        raise BadInput(
            f"cannot read questions from {path}: line {number} holds no question; expected a JSON "
            'object such as {"question": "…", "answers": ["…"]}, so mend or drop it'
        )
    return row


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write answers to {path}: {error.strerror}; expected a writable file in an "
            "existing folder, so make the folder or name another"
        ) from error


def _answer_json(
    answer: Answer, timing: dict[str, float], model: str, index: str
) -> dict[str, Any]:
    rounded = {name: round(seconds, 3) for name, seconds in timing.items()}
    rounded["total"] = round(sum(timing.values()), 3)
    return {**answer_to_json(answer), "timing_s": rounded, "model": model, "index": index}


def demo() -> None:
    """Fetch the assets, build the demo index and answer three questions."""
    store, engine = indexes.load(None, progress=Reporter())
    for question in DEMO_QUESTIONS:
        stdout.rule(f"[bold]{question}[/bold]", align="left")
        answer = answer_questions(
            [question], engine=engine, retriever=store, config=SearchConfig()
        )[0]
        render.show_answer(stdout, answer)
        stdout.print()
    stdout.print(
        f"Passages: {assets.named('corpus').attribution}\n"
        'Ask your own: selfrag ask "…" [--explain]',
        style="dim",
        markup=False,
    )
