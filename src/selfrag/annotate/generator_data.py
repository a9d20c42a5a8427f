"""Generator data: answers annotated row by row, many rows a batch, written in order.

Knows nothing of who judges, of what retrieves, or of the command line.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selfrag.annotate.annotate_row import Annotated, Need, annotate_row, split_answer
from selfrag.annotate.assemble import AssemblyConfig, Bug, Rules
from selfrag.annotate.critic_data import reject_from, windows
from selfrag.annotate.judge import Judge, Prices
from selfrag.annotate.judgement import Case, Judgement, relevance_case, retrieve_case, utility_case
from selfrag.annotate.report import DataFile, LabelReport, Stage, data_file, nothing_usable
from selfrag.annotate.sources import SourceRow
from selfrag.decode.drive import Server, look_up, run
from selfrag.decode.search import Lookup
from selfrag.files import beside, write_json
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.retrieval.base import Retriever
from selfrag.rows import Reject

# Rows whose questions go to teacher and retriever together.
WINDOW = 32


def annotate_rows(
    rows: Sequence[SourceRow], judge: Judge, retriever: Retriever, config: AssemblyConfig
) -> list[Annotated]:
    """Every row annotated, in order. Rows go on together: one batch a step for all of them."""
    done: dict[int, Annotated] = {}

    def finish(n: int, row: SourceRow) -> Generator[Need, Any, None]:
        done[n] = yield from annotate_row(row, config)

    servers: dict[type, Server] = {
        Lookup: partial(look_up, retriever),
        list: partial(_judge_all, judge),
    }
    for _ in run((finish(n, row) for n, row in enumerate(rows)), servers):
        pass  # a row tells nothing on its way
    return [done[n] for n in range(len(rows))]


def _judge_all(judge: Judge, asks: Sequence[list[Case]]) -> list[list[Judgement]]:
    # One group after the other: a server reuses what the prompts of a group begin with.
    order = sorted((case.group, n, at) for n, ask in enumerate(asks) for at, case in enumerate(ask))
    judgements = judge.judge([asks[n][at] for _, n, at in order])
    placed = {(n, at): each for (_, n, at), each in zip(order, judgements, strict=True)}
    return [[placed[n, at] for at in range(len(ask))] for n, ask in enumerate(asks)]


def write_generator_data(
    rows: Iterable[SourceRow | Reject],
    judge: Judge,
    retriever: Retriever,
    out: Path,
    config: AssemblyConfig,
    *,
    prices: Prices | None = None,
    window: int = WINDOW,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Writes `out` with rejects and report beside it; the report.

    The bytes depend on the rows, the answers and what the retriever finds, not on how many rows, a
    `window`, go on together. A row that lacks an answer is a reject, which a rerun completes.
    Raises `BadInput` or `EngineError` when no row could be used; rejects and report are there then
    too, and an old `out` stays.
    """
    report = LabelReport(judge.teacher.name, prices or Prices())
    tokens: Counter[str] = Counter()
    n_read = 0
    with data_file(out) as file:
        for some in windows(rows, window):
            usable = [row for row in some if isinstance(row, SourceRow)]
            annotated = iter(annotate_rows(usable, judge, retriever, config))
            for row in some:
                if isinstance(row, Reject):
                    file.reject(row)
                else:
                    _write(next(annotated), report, tokens, file)
            n_read += len(some)
            on_progress(n_read)
    summary = {
        **report.to_json(rejects=file.reasons),
        "rows": file.n_rows,
        "tokens": _token_counts(tokens),
        "assembly": _config_to_json(config),
    }
    write_json(beside(out, ".report.json"), summary, "the report")
    if not file.n_rows:
        raise nothing_usable(out, file)
    return summary


def _write(done: Annotated, report: LabelReport, tokens: Counter[str], file: DataFile) -> None:
    for judgement in done.judgements:
        report.add(judgement)
        if judgement.label is None and judgement is not done.unfinished:
            file.reject(reject_from(done.row.id, judgement))
    if done.unfinished is not None:
        file.reject(reject_from(done.row.id, done.unfinished))
    elif done.left_out:
        detail = f"left out by the rule {done.left_out} of the released code"
        made = done.to_json()
        reason = done.left_out
        file.reject(
            Reject(id=done.row.id, stage=Stage.ASSEMBLE, reason=reason, detail=detail, row=made)
        )
    else:
        file.add(done.to_json())
        tokens.update(str(piece.token) for piece in done.pieces if piece.token is not None)


def _token_counts(tokens: Counter[str]) -> dict[str, int]:
    """How often each token stands in the output, those that never do included."""
    return {str(t): tokens[t] for t in (*Retrieve, *Relevance, *Support, *Utility)}


def _config_to_json(config: AssemblyConfig) -> dict[str, Any]:
    is_reference = config.rules is Rules.REFERENCE
    return {
        "rules": config.rules,
        "top_k": config.top_k,
        "seed": config.seed,
        "negative_samples": config.negative_samples,
        "bugs": {bug: bug in config.bugs for bug in Bug} if is_reference else {},
    }


def planned_at_most(rows: Iterable[SourceRow | Reject], top_k: int) -> Iterator[list[Case]]:
    """Stand-ins for all that may be asked of every row, of about the right size.

    What is asked depends on the answers: this is the case where every sentence is retrieved for
    and every passage relevant. A passage is taken to be a hundred words.
    """
    for row in rows:
        if isinstance(row, Reject):
            continue
        cases: list[Case] = [
            retrieve_case(row.instruction),
            utility_case(row.instruction, row.output),
        ]
        for n, _ in enumerate(split_answer(row.output, merge_short=True)):
            for rank in range(2 * top_k + 1):
                words = f"{row.id} {n} {rank} " + "passage " * 100
                cases.append(relevance_case(row.instruction, words))
        yield cases
