"""The options of `ask`, `chat` and `batch`, with the released scripts' names beside ours."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli.settings import mode_from
from selfrag.decode.config import QueryPolicy
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.open.engines import EngineKind


class Compat(StrEnum):
    """Whose decisions are followed instead of ours."""

    REFERENCE = "reference"


Question = Annotated[str | None, typer.Argument(help="The question; - reads it from stdin.")]
Index = Annotated[
    str | None,
    typer.Option("--index", help="Folder, s3://… or postgresql://…; else the demo index."),
]
Engine = Annotated[EngineKind, typer.Option(help="What runs the model.")]
Mode = Annotated[
    RetrievalMode, typer.Option(parser=mode_from, metavar="MODE", help="adaptive, always or never.")
]
Gate = Annotated[GateKind, typer.Option(help="Which rule decides in mode adaptive.")]
Threshold = Annotated[
    str, typer.Option(help="Retrieve above this probability; none: as the emitted token says.")
]
TopK = Annotated[int, typer.Option("--top-k", "--ndocs", help="Passages a segment.")]
BeamWidth = Annotated[int, typer.Option("--beam-width", "--beam_width", help="Hypotheses kept.")]
MaxSegments = Annotated[int, typer.Option(help="Segments at most; 1 is short form.")]
MaxDepth = Annotated[
    int | None, typer.Option("--max_depth", help="Segments at most plus one, as released.")
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", "--max_new_tokens", help="Tokens a segment.")
]
WeightRel = Annotated[float, typer.Option("--w-rel", "--w_rel", help="Weight of relevance.")]
WeightSup = Annotated[float, typer.Option("--w-sup", "--w_sup", help="Weight of support.")]
WeightUse = Annotated[float, typer.Option("--w-use", "--w_use", help="Weight of utility.")]
Scoring = Annotated[PathScore, typer.Option(help="How segments make the score of a path.")]
Query = Annotated[QueryPolicy, typer.Option(help="What is searched for later segments.")]
Drop = Annotated[
    bool,
    typer.Option("--drop-unsupported", "--ignore_cont", help="No segment judged unsupported."),
]
Choices = Annotated[str, typer.Option(help="A closed set of answers, as in true,false.")]
MinSupport = Annotated[float | None, typer.Option(help="Say nothing that is supported less.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Budget of time.")]
MaxTokens = Annotated[int | None, typer.Option(help="Budget of tokens written.")]
MaxPassages = Annotated[int | None, typer.Option(help="Budget of passages read.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting of the search as key=value.")
]
# The released flags that switch score terms on: here they always are.
Groundness = Annotated[bool, typer.Option("--use_groundness", hidden=True)]
UseUtility = Annotated[bool, typer.Option("--use_utility", hidden=True)]
SeqScore = Annotated[bool, typer.Option("--use_seqscore", hidden=True)]
Following = Annotated[
    Compat | None, typer.Option("--compat", help="Decide as the released scripts, faults included.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Show the whole tree.")]
Stream = Annotated[bool, typer.Option("--stream", help="Tell every step as it comes.")]
Trace = Annotated[Path | None, typer.Option("--trace", help="JSONL file to add the trace to.")]
Ray = Annotated[str, typer.Option("--ray", help="Cluster: host:port, auto, or local to start one.")]
Workers = Annotated[int, typer.Option("--workers", help="On Ray; 0: as many as it holds.")]
WorkerCpus = Annotated[float, typer.Option(help="CPUs of a worker on Ray.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
