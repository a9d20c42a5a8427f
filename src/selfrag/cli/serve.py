"""`selfrag serve`: the HTTP server and its page."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfrag.cli import options
from selfrag.cli.console import stderr
from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Engine
from selfrag.errors import MissingPackage
from selfrag.open import indexes
from selfrag.open.calibrations import open_calibration, weights_name
from selfrag.open.engines import ModelOptions, check_name, open_engine
from selfrag.open.grounding import grounding_of
from selfrag.retrieval.manifest import Manifest
from selfrag.serial import override
from selfrag.serve.limits import Access, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where is served, and to whom."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8080
    token_file: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line; else SELFRAG_SERVE_TOKENS.")
    ] = None
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which the server is reached.")
    ] = None
    open_to_anyone: Annotated[
        bool, typer.Option("--open-to-anyone", help="Serve others than this machine, no token.")
    ] = False


@options.command
def serve(
    *,
    index: options.Index = None,
    model: ModelOptions,
    where: Where,
    documents: Annotated[
        Path | None, typer.Option(help="Folder for uploads; else beside the index.")
    ] = None,
    limits: Limits,
    search: SearchConfig,
    changes: options.Changes = None,
    given: options.Given,
) -> None:
    """Serve a page and an API that OpenAI's clients understand."""
    access = Access.of(
        host=where.host,
        token_file=where.token_file,
        environ=os.environ,
        names=tuple(where.allow_host or ()),
        is_open=where.open_to_anyone,
    )
    limits = limits.with_environment(os.environ, given)
    config = limits.check(override(search, changes or [], table="decode"))
    check_name(model.model)
    check_name(model.writer or model.model)
    calibration, grounding = open_calibration(model), grounding_of(model)
    if index is not None and not indexes.is_postgres(index):
        Manifest.load(index)  # a name that is wrong is told at once
    try:
        from selfrag.serve import app
        from selfrag.serve.index import ServedIndex
        from selfrag.serve.service import Loading, Service
    except ImportError as error:
        raise MissingPackage(
            f"cannot serve: found no package {error.name}, expected those of the server installed; "
            'run pip install "selfrag[serve]"'
        ) from error
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(app.JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    def opened(loading: Loading) -> tuple[ServedIndex, Engine]:
        served = ServedIndex.open(index, documents, loading)
        return served, open_engine(model, loading)

    app.serve(
        Service(opened, limits, config, calibration, grounding, weights_name(model)),
        access,
        host=where.host,
        port=where.port,
        on_address=lambda url: stderr.print(f"selfrag: serving {url}", markup=False),
    )
