"""`selfrag ask`, `chat`, `batch`, `replay` and `demo`: questions in, answers out."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from selfrag import assets
from selfrag.cli import effect, options, render
from selfrag.cli.console import Reporter, one_line, print_json, stderr, stdout
from selfrag.cli.questions import (
    continued,
    index_facts,
    keep_rejects,
    open_source,
    passages_in,
    question_from,
)
from selfrag.compat.output import follow_reference, reference_json
from selfrag.decode.answer import (
    Answer,
    answer_questions,
    answer_to_json,
    collect_answers,
    finished_answers,
)
from selfrag.decode.config import SearchConfig
from selfrag.decode.drive import drive, search_one
from selfrag.decode.drive import search as run_search
from selfrag.decode.events import Event
from selfrag.decode.gate import RetrievalMode
from selfrag.decode.search import Model, Steps
from selfrag.engine.base import Engine
from selfrag.errors import UserError
from selfrag.files import beside, check_outputs, is_plain
from selfrag.open import indexes
from selfrag.open.calibrations import open_calibration, weights_name
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.progress import working
from selfrag.prompt import Turn
from selfrag.retrieval.base import FixedRetriever, Retriever
from selfrag.rows import Reject, Row, RowFault, answers_of, id_of, question_of, read_questions
from selfrag.serial import override
from selfrag.text import counted
from selfrag.trace.file import load_searches, save_trace
from selfrag.trace.rows import config_to_row

Question = Annotated[str | None, typer.Argument(help="The question; - reads it from stdin.")]
Trace = Annotated[Path | None, typer.Option("--trace", help="JSONL file to add the trace to.")]

# What has no effect where nothing is retrieved. The threshold and the gate are reported all the
# same, and the released commands give them in every mode.
UNREAD = (
    *("index", "passages", "top_k", "query", "drop_unsupported", "min_support", "max_passages"),
    *("calibration", "min_probability"),
    *("weights.relevance", "weights.support", "n_evidence", "alternatives", "with_no_retrieval"),
    *("weights.retrieval", "prune_relevance", "inline_passages", "max_passage_tokens"),
)
# What the released scripts have an option for, and what of ours is needed to run them.
RELEASED = {
    *("question", "index", "model", "engine", "device", "changes", "as_json", "compat"),
    *("use_groundness", "use_utility", "use_seqscore", "mode", "threshold", "top_k"),
    *("max_new_tokens", "max_passage_tokens"),
    *("weights.relevance", "weights.support", "weights.utility"),
}
RELEASED_SHORT = {"choices"}
RELEASED_LONG = {"max_depth", "beam_width", "drop_unsupported"}

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
        int | None,
        typer.Option("--max_depth", min=1, help="Segments at most plus one, as released."),
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
    source: options.Source,
    model: ModelOptions,
    search: SearchConfig,
    changes: options.Changes = None,
    released: Released,
    show: Show,
    given: options.Given,
) -> None:
    """Answer one question, with citations and scores."""
    if show.as_json:
        given.refuse(("stream", "explain"), "print JSON", "it shows the search in words")
    if source.passages is not None:
        why = "all passages of the file are read, and nothing is searched"
        asked = options.Given(given | options.set_keys(changes))
        asked.refuse(("index", "top_k", "query"), "answer from passages", why)
    if released.max_depth is not None:
        given.refuse(("max_segments",), "answer", "--max_depth says the same in another way")
        search = replace(search, max_segments=max(1, released.max_depth - 1))
    if released.compat is Compat.REFERENCE:
        _refuse_unreleased(
            given | options.set_keys(changes), is_long=released.max_depth is not None
        )
    config = _config(search, changes, given)
    text = question_from(question)
    if released.compat is Compat.REFERENCE:
        depth = released.max_depth or 0
        _follow(text, source.index, model, config, max_depth=depth, as_json=show.as_json)
    else:
        _answer_one(text, source, model, config, show)


def _config(
    search: SearchConfig, changes: Sequence[str] | None, given: options.Given
) -> SearchConfig:
    """The settings as `--set` changes them; refuses those that have no effect beside others."""
    effect.refuse_twice(given, options.set_keys(changes), "answer")
    config = override(search, changes or [], table="decode")
    if config.mode is RetrievalMode.NEVER:
        asked = options.Given(given | options.set_keys(changes))
        asked.refuse(UNREAD, "answer in mode never", "it is about passages, and none is read")
    return config


def _refuse_unreleased(given: Mapping[str, str], *, is_long: bool) -> None:
    """Raises `BadInput` for an option that the released script of this form has nothing for."""
    heard = RELEASED | (RELEASED_LONG if is_long else RELEASED_SHORT)
    form = "long form (--max_depth)" if is_long else "short form (no --max_depth)"
    options.Given(given).refuse(
        [name for name in given if name not in heard],
        "decide as the released scripts",
        f"their {form} has no such thing",
    )


def _follow(
    text: str,
    index: str | None,
    model: ModelOptions,
    config: SearchConfig,
    *,
    max_depth: int,
    as_json: bool,
) -> None:
    report = Reporter()
    store, engine = indexes.load(index, model, report)
    with working(report, "answering"):
        hits = store.search([text], config.top_k)[0]
        answer = follow_reference(text, hits, engine, config, max_depth=max_depth)
    if as_json:
        print_json(reference_json(text, answer))
    else:
        render.show_reference(stdout, answer)


def _answer_one(
    text: str,
    source: options.Source,
    model: ModelOptions,
    config: SearchConfig,
    show: Show,
) -> None:
    started = time.perf_counter()
    calibration = open_calibration(model)
    report = Reporter()
    retriever, engine, own = open_source(source, model, report)
    loaded = time.perf_counter()
    events: list[Event] = []
    found = run_search(
        [text],
        engine=engine,
        retriever=retriever,
        config=config,
        passages=[own],
        calibration=calibration,
    )
    told = render.narrate(stdout, found) if show.stream else found
    with nullcontext() if show.stream else working(report, "answering"):
        (answer,) = collect_answers([text], told, configs=[config], on_event=events.append)
    timing = {"load": loaded - started, "answer": time.perf_counter() - loaded}
    if show.trace is not None:
        save_trace(show.trace, [text], events, config=config, model=weights_name(model))
    if show.as_json:
        print_json(
            _answer_json(
                answer, timing, engine.name, str(source.passages or source.index or "demo")
            )
        )
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
    with working(Reporter(), "reading the trace"):
        recorded = load_searches(trace)
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
    given: options.Given,
) -> None:
    """Ask one question after another; earlier turns are context. An empty line ends."""
    config = _config(search, changes, given)
    calibration = open_calibration(model)
    report = Reporter()
    store, engine = indexes.load(index, model, report)
    turns: list[Turn] = []
    for question in _lines_of(sys.stdin, prompt="> "):
        try:
            with working(report, "answering"):
                (answer,) = answer_questions(
                    [question],
                    engine=engine,
                    retriever=store,
                    config=config,
                    histories=[turns],
                    calibration=calibration,
                )
        except UserError as error:  # the conversation so far is kept
            stderr.print(one_line(f"selfrag: {error}"), markup=False)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What `batch` writes."""

    out: Annotated[Path, typer.Option("--out", help="JSONL of answers, to write or to go on with.")]
    trace: Trace = None
    restart: Annotated[bool, typer.Option("--restart", help="Write --out again.")] = False


@options.command
def batch(
    *,
    questions: Annotated[
        Path, typer.Argument(help="JSON or JSONL: `question` or `instruction` in each row.")
    ],
    files: Files,
    index: options.Index = None,
    model: ModelOptions,
    search: SearchConfig,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions searched together.")] = 8,
    changes: options.Changes = None,
    given: options.Given,
) -> None:
    """Answer many questions; run again to go on after an interruption.

    A row that brings passages, as `ctxs`, is answered from these. Gold `answers` are kept for
    `rescore` in a trace.
    """
    config = _config(search, changes, given)
    rejected = beside(files.out, ".rejects.jsonl")
    outputs = {"--out": files.out, "--trace": files.trace, "the rejects": rejected}
    check_outputs(outputs, {"the questions": questions})
    rows, rejects = read_questions(questions)
    calibration = open_calibration(model)
    report = Reporter()
    is_open = index is None and all(row.get("ctxs") is not None for row in rows.values())
    store, engine = _load(index, model, report, without_index=is_open)
    asked, unasked = _askable(rows, Model.of(engine, calibration), config)
    facts = {
        **({"index": "ctxs"} if is_open else index_facts(index, store)),
        "model": engine.name,
        "trace": str(files.trace) if files.trace else None,
        "calibration": model.calibration or None,
        "search": config_to_row(config),
    }
    done = [each.row for each in asked]
    with continued(files.out, done, facts, questions, restart=files.restart) as (log, n_done):
        told = keep_rejects(files.out, sorted(rejects + unasked, key=lambda each: each.number))
        if told:
            report.say(told)
        if n_done:
            report.say(f"going on after {n_done} of {counted(len(asked), 'question')}")
        left = asked[n_done:]
        events = drive([each.search for each in left], engine, store, at_once=batch_size)
        report.progress("answering", n_done, len(asked))
        save = None
        if files.trace is not None:
            save = partial(save_trace, files.trace, config=config, model=weights_name(model))
        try:
            for each, answer in _in_order(asked, events, config, save, first=n_done):
                kept = {key: each.row[key] for key in ("id", "answers") if key in each.row}
                log.append([{**kept, **answer_to_json(answer)}])
                n_done += 1
                report.progress("answering", n_done, len(asked))
        finally:
            report.close()
            if n_done < len(asked):
                report.say(f"{n_done} of {len(asked)} are in {files.out}; run again to go on")
    # Standard output may be the file itself.
    console = stdout if is_plain(files.out) else stderr
    console.print(f"answered {counted(len(asked), 'question')} in {files.out}", markup=False)


def _load(
    index: str | None, model: ModelOptions, report: Reporter, *, without_index: bool
) -> tuple[Retriever, Engine]:
    if without_index:
        return FixedRetriever({}), open_engine(model, report)
    return indexes.load(index, model, report)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A row that can be answered, and its search, which has not begun."""

    row: Row
    search: Steps


def _askable(
    rows: Mapping[int, Row], model: Model, config: SearchConfig
) -> tuple[list[_Asked], list[Reject]]:
    """The searches of all rows, numbered in their order, and the rows that have none."""
    asked: list[_Asked] = []
    rejects: list[Reject] = []
    for number, row in rows.items():
        try:
            steps = search_one(
                question_of(row),
                model=model,
                config=config,
                passages=passages_in(row),
                number=len(asked),
            )
            asked.append(_Asked(row, steps))
        except RowFault as fault:
            rejects.append(Reject(reason=fault.reason, detail=str(fault), number=number, row=row))
        except UserError as error:  # longer than the context
            detail = f"cannot be asked ({error})"
            rejects.append(Reject(reason="not_asked", detail=detail, number=number, row=row))
    return asked, rejects


def _in_order(
    asked: Sequence[_Asked],
    events: Iterable[Event],
    config: SearchConfig,
    save: Callable[..., None] | None,
    *,
    first: int,
) -> Iterator[tuple[_Asked, Answer]]:
    """Rows from number `first` on with their answers, in order; a trace is saved before its answer.

    Searches end in any order, so answers wait for those of the rows before.
    """
    told: dict[int, list[Event]] = {}

    def keep(event: Event) -> None:
        if save is not None:
            told.setdefault(event.question, []).append(replace(event, question=0))

    texts = [question_of(each.row) for each in asked]
    configs = [config] * len(asked)
    waiting: dict[int, Answer] = {}
    following = first
    for number, answer in finished_answers(texts, events, configs=configs, on_event=keep):
        waiting[number] = answer
        while following in waiting:
            each = asked[following]
            if save is not None:
                golds, ids = [answers_of(each.row)], [id_of(each.row)]
                save([texts[following]], told.pop(following), answers=golds, ids=ids)
            yield each, waiting.pop(following)
            following += 1


def _answer_json(
    answer: Answer, timing: dict[str, float], model: str, index: str
) -> dict[str, Any]:
    rounded = {name: round(seconds, 3) for name, seconds in timing.items()}
    rounded["total"] = round(sum(timing.values()), 3)
    return {**answer_to_json(answer), "timing_s": rounded, "model": model, "index": index}


def demo() -> None:
    """Fetch the assets, build the demo index and answer three questions."""
    calibration = open_calibration(ModelOptions())
    report = Reporter()
    store, engine = indexes.load(None, progress=report)
    for question in DEMO_QUESTIONS:
        stdout.rule(f"[bold]{question}[/bold]", align="left")
        with working(report, "answering"):
            answer = answer_questions(
                [question],
                engine=engine,
                retriever=store,
                config=SearchConfig(),
                calibration=calibration,
            )[0]
        render.show_answer(stdout, answer)
        stdout.print()
    stdout.print(
        f"Passages: {assets.named('corpus').attribution}\n"
        'Ask your own: selfrag ask "…" [--explain]',
        style="dim",
        markup=False,
    )
