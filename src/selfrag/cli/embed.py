"""`selfrag embed`: a corpus as vectors, in shards that several processes or machines share."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import Reporter, stdout
from selfrag.cluster import Workers
from selfrag.errors import BadInput
from selfrag.indexing import PassageFiles, token_limit
from selfrag.ingest.chunking import TokenLimit
from selfrag.progress import working
from selfrag.retrieval.spec import DEFAULT_ENCODER, Precision
from selfrag.text import counted

if TYPE_CHECKING:
    from selfrag.retrieval.embed.plan import Plan
    from selfrag.retrieval.encoder.base import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """The folder of shards, and which of them are made here."""

    out: Annotated[Path, typer.Option("--out", help="Folder of the shards; run again to go on.")]
    shard: Annotated[str, typer.Option(help="Only shard i of n, as 0/16; i from 0.")] = ""
    shards: Annotated[int, typer.Option(help="How many; 0: one for 65,536 passages.")] = 0
    from_pickles: Annotated[
        list[str] | None, typer.Option(help="Embeddings of the original, as 'dir/passages_*'.")
    ] = None
    index: Annotated[
        Path | None, typer.Option(help="Make this index of the shards once all are whole.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What encodes."""

    encoder: Annotated[
        str, typer.Option(help="Model by name or folder: contriever-msmarco, E5, …")
    ] = DEFAULT_ENCODER
    precision: Annotated[
        Precision | None, typer.Option(help="What it computes in; else int8 for MiniLM on a CPU.")
    ] = None
    batch_size: Annotated[int, typer.Option(help="Passages encoded together.")] = 64
    devices: Annotated[str, typer.Option(help="One process each, as cuda:0,cuda:1.")] = ""


@options.command
def embed(
    *,
    passages: Annotated[
        list[str], typer.Option("--passages", help="Files or patterns: psgs_w100.tsv, corpus.jsonl")
    ],
    shards: Shards,
    encoding: Encoding,
    workers: Workers,
    stall_minutes: Annotated[
        float, typer.Option(help="Ray is given up after so long without commit.")
    ] = 30.0,
) -> None:
    """Encode a corpus into shards, and these into an index; run again to go on after any end.

    Rows with an id are passages as they are, others are cut into blocks of 100 words, or fewer
    where these have more tokens than the encoder reads.
    """
    from selfrag.retrieval.embed.cluster import embed_on_cluster, embed_on_devices
    from selfrag.retrieval.embed.plan import planned, survey
    from selfrag.retrieval.embed.run import embed_corpus
    from selfrag.retrieval.encoder.named import usual_precision

    places = [name.strip() for name in encoding.devices.split(",") if name.strip()]
    _refuse_together(
        {
            "--shard": shards.shard,
            "--devices": places[1:],
            "--ray": workers.ray,
            "--from-pickles": shards.from_pickles,
        }
    )
    number, n_shards = _shard_of(shards.shard) if shards.shard else (None, shards.shards)
    _refuse_below(1, batch_size=encoding.batch_size)
    _refuse_below(0, shards=n_shards)
    files, out, report = PassageFiles(tuple(passages)), shards.out, Reporter()
    if shards.from_pickles:
        plan = _import(shards.from_pickles, files, out, encoding.encoder, n_shards, report)
        _finish(out, plan, shards.index, report)
        return
    workers = replace(workers, stall_s=stall_minutes * 60)
    device = places[0] if places else ""
    # One precision for all workers.
    precision = encoding.precision or usual_precision(encoding.encoder, device=device)
    make = partial(open_encoder, encoding.encoder, precision, encoding.batch_size)
    # Where others do the work, this process wants to know no more than the dims.
    with working(report, "opening the encoder"):
        model = make("cpu" if workers.ray or places[1:] else device)
    files = replace(files, limit=partial(token_limit, model))
    counting = "counting the passages"
    with working(report, counting):
        corpus = survey(files, on_progress=lambda done: report.progress(counting, done, 0))
    at_least = max(workers.n_workers, len(places))
    plan = planned(out, model.spec, corpus, n_shards=n_shards, at_least=at_least)
    own = None if number is None else [number]
    job: Callable[..., None] = partial(embed_corpus, files, model, out, plan, shards=own)
    if workers.ray or places[1:]:
        files = replace(files, limit=partial(_limit_there, partial(make, "cpu")))
    if workers.ray:
        there = partial(make, device)
        job = partial(
            embed_on_cluster, files, there, out, plan, address=workers.ray, workers=workers
        )
    elif places[1:]:
        job = partial(embed_on_devices, files, make, out, plan, places)
    _with_bar(job, plan, report, number)
    _finish(out, plan, shards.index, report)


def _with_bar(
    job: Callable[..., None], plan: "Plan", report: Reporter, shard: int | None = None
) -> None:
    n_total = plan.corpus.n_passages if shard is None else len(plan.rows(shard))
    try:
        report.progress("embedding", 0, 0)  # what is there already is known with the first batch
        job(on_progress=lambda done: report.progress("embedding", done, n_total))
    finally:
        report.close()


def open_encoder(name: str, precision: Precision, batch_size: int, device: str) -> "Encoder":
    """The embedding model on `device`, or on the best there is for an empty one.

    Called on every worker, so what it needs is fetched there.
    """
    from selfrag.retrieval.encoder import named as encoders

    return encoders.open_encoder(name, precision=precision, device=device, batch_size=batch_size)


def _limit_there(make: "Callable[[], Encoder]") -> TokenLimit | None:
    """What an encoder reads of a passage, by one that is opened where the files are read."""
    return token_limit(make())


def _finish(out: Path, plan: "Plan", index: Path | None, report: Reporter) -> None:
    """Says what is whole and what to do next, and makes the `index` when all is."""
    from selfrag.retrieval.embed.run import index_shards, unfinished_shards

    n_passages = plan.corpus.n_passages
    left = unfinished_shards(out, plan)
    n_whole = plan.n_shards - len(left)
    stdout.print(f"whole in {out}: {n_whole} of {counted(plan.n_shards, 'shard')}", markup=False)
    if left:
        stdout.print(f"to do: --shard {left[0]}/{plan.n_shards} and so on", markup=False)
    elif index is None:
        stdout.print(
            f"{counted(n_passages, 'passage')}: run again with --index FOLDER", markup=False
        )
    else:
        try:
            index_shards(
                out, index, on_progress=lambda done: report.progress("indexing", done, n_passages)
            )
        finally:
            report.close()
        stdout.print(f"indexed {counted(n_passages, 'passage')} in {index}", markup=False)


def _import(
    patterns: list[str],
    files: PassageFiles,
    out: Path,
    encoder: str,
    n_shards: int,
    report: Reporter,
) -> "Plan":
    from selfrag.retrieval.embed.pickles import ORIGINAL_ENCODER, import_pickles, pickle_files

    paths = pickle_files(patterns)
    spec = ORIGINAL_ENCODER
    if encoder != DEFAULT_ENCODER:
        spec = open_encoder(encoder, Precision.FP32, 1, "cpu").spec
    report.say(f"checking {counted(len(paths), 'file')}, then writing their vectors")
    with working(report, "importing"):
        return import_pickles(
            paths,
            files,
            out,
            spec,
            n_shards=n_shards or None,
            on_progress=lambda done: report.progress("importing", done, 0),
        )


def _refuse_together(given: dict[str, object]) -> None:
    named = [name for name, value in given.items() if value]
    if len(named) > 1:
        raise BadInput(
            f"cannot embed with {' and '.join(named)}: expected one of them, since each shares "
            "out the shards in its own way; leave the others out"
        )


def _refuse_below(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            option = "--" + name.replace("_", "-")
            raise BadInput(
                f"cannot embed: {option} is {number}; expected at least {least}, so raise it"
            )


def _shard_of(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    number, n_shards = (int(found[1]), int(found[2])) if found else (0, 0)
    if number >= n_shards:
        raise BadInput(
            f"cannot embed shard {text!r}: expected i/n with i from 0 to n - 1, as 0/16; "
            "write it so"
        )
    return number, n_shards
