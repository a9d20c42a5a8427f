"""The `selfrag` command: its commands by name, and how errors end."""

import os
import sys

import typer

from selfrag.cli.console import stderr
from selfrag.cli.lazy import COMMANDS, LazyGroup
from selfrag.errors import SelfRAGError


def _stand_in() -> None:
    """Holds the name of a command until `LazyGroup` imports it."""


app = typer.Typer(
    cls=LazyGroup,
    name="selfrag",
    help="Answers with citations and reflection scores: retrieve on demand, write, criticise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name in COMMANDS:
    app.command(_name)(_stand_in)


def main() -> None:
    """Runs the command line; exit code 2 for the user's mistake, 1 for ours."""
    # Tokenizers start no threads of their own: torch has them all.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(args=arguments, standalone_mode=False)
    except SelfRAGError as error:
        _stop(str(error), error.exit_code, error)
    except typer.Abort:
        _stop("stopped on request; nothing half-written is left", 1, None)
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
    stderr.print(f"selfrag: {message}", markup=False, soft_wrap=True)
    sys.exit(code)
