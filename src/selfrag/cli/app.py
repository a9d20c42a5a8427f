"""The `selfrag` command: its commands by name, imported when they are asked for, and its errors.

Knows nothing of what the commands do.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from selfrag.cli.console import adapt_streams, one_line, stderr, stdout
from selfrag.errors import SelfRAGError

# Where each is, in the order of the help: a function, or a group of commands.
COMMANDS = {
    "ask": "ask:ask",
    "check": "check:check",
    "chat": "ask:chat",
    "batch": "ask:batch",
    "rescore": "rescore:rescore",
    "calibrate": "calibrate:calibrate",
    "replay": "ask:replay",
    "report": "evaluate:report",
    "retrieve": "search:retrieve",
    "export": "train:export_model",
    "embed": "embed:embed",
    "search": "search:search",
    "serve": "serve:serve",
    "demo": "ask:demo",
    "mcp": "mcp:mcp",
    "doctor": "doctor:doctor",
    "index": "index:index_app",
    "train": "train:train_app",
    "eval": "evaluate:eval_app",
    "annotate": "annotate:annotate_app",
}


class LazyGroup(TyperGroup):
    """A group that knows the names of `COMMANDS`, and imports a command where it is needed.

    `--help` imports all of them: their first lines are shown.
    """

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        """The command of this name, imported now; None where there is none."""
        return _imported(cmd_name) if cmd_name in COMMANDS else None


def _imported(name: str) -> Any:
    """A command as Typer makes it, whose class has no public name."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"selfrag.cli.{module}"), attribute)
    holder = typer.Typer()
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    return get_group(holder).commands[name]


def _placeholder() -> None:
    """Holds the name of a command until `LazyGroup` imports it."""


app = typer.Typer(
    cls=LazyGroup,
    name="selfrag",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        stdout.print(import_module("selfrag").__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Answers with citations and reflection scores: retrieve on demand, write, criticise."""


for _name in COMMANDS:
    app.command(_name)(_placeholder)


_INTERRUPTED = 130  # what Typer makes of Ctrl-C


def main() -> None:
    """Runs the command line; exit code 2 for the user's mistake, 1 for ours."""
    # Tokenizers start no threads of their own: torch has them all.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    adapt_streams()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        try:
            code = app(args=arguments, standalone_mode=False)
        finally:
            stderr.end_progress()  # a terminal has its cursor back, however the command ended
        if code == _INTERRUPTED:
            _stop("stopped on request; nothing half-written is left", code, None)
    except SelfRAGError as error:
        _stop(str(error), error.exit_code, error)
    except typer.Abort:
        _stop("stopped on request; nothing half-written is left", _INTERRUPTED, None)
    except typer.TyperException as error:
        if not error.format_message():  # a bare command group, which has shown its help
            sys.exit(2)
        doing = f"cannot run `selfrag {' '.join(arguments)}`"
        found = error.format_message().rstrip(".")
        _stop(f"{doing}: {found}; see `selfrag --help` for what is expected", 2, error)
    except Exception as error:
        _stop(
            f"stopped by a fault of ours: {error!r}; run again with --debug and report it", 1, error
        )
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int, error: BaseException | None) -> None:
    if "--debug" in sys.argv and error is not None:
        raise error
    stderr.print(one_line(f"selfrag: {message}"), markup=False)
    sys.exit(code)
