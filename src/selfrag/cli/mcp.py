"""`selfrag mcp`: asking and searching as tools for clients of the Model Context Protocol."""

from typing import Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import Reporter
from selfrag.decode.config import SearchConfig
from selfrag.open.calibrations import open_calibration
from selfrag.open.engines import ModelOptions, check_name
from selfrag.open.grounding import grounding_of
from selfrag.serial import override

Port = Annotated[
    int | None,
    typer.Option("--http", help="Serve http://127.0.0.1:PORT/mcp instead.", metavar="PORT"),
]


@options.command
def mcp(
    *,
    index: options.Index = None,
    model: ModelOptions,
    changes: options.Changes = None,
    http: Port = None,
) -> None:
    """Serve ask and search as MCP tools, over standard input and output or HTTP."""
    from selfrag.api import SelfRAG
    from selfrag.integrations.mcp import mcp_server, run_server

    check_name(model.model)
    check_name(model.writer or model.model)
    calibration, grounding = open_calibration(model), grounding_of(model)
    config = override(SearchConfig(), changes or [], table="decode")

    def opening() -> SelfRAG:
        from selfrag.open import indexes

        retriever, engine = indexes.load(index, model, Reporter())
        return SelfRAG(
            engine, retriever, config=config, calibration=calibration, grounding=grounding
        )

    run_server(mcp_server(opening), port=http)
