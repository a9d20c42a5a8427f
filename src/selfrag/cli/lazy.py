"""The commands by name; the module of one is imported when it is asked for, all for `--help`.

Knows nothing of what they do.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

# Where each stands, in the order of the help: a function, or a group of commands.
COMMANDS = {
    "ask": "ask:ask",
    "chat": "ask:chat",
    "batch": "ask:batch",
    "rescore": "rescore:rescore",
    "replay": "ask:replay",
    "report": "eval_tasks:report",
    "retrieve": "retrieve:retrieve",
    "export": "export:export",
    "embed": "embed:embed",
    "search": "search:search",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "index": "index:index_app",
    "train": "train:train_app",
    "eval": "eval_tasks:eval_app",
    "annotate": "annotate:annotate_app",
}


class LazyGroup(TyperGroup):
    """A group that knows the names of `COMMANDS`, and imports a command where it is needed."""

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
