"""How labels and annotated rows look on a terminal: tables, and tokens in colour."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfrag.cli.console import stdout
from selfrag.reflection import ReflectionToken, Relevance, Retrieve, Support, Utility

if TYPE_CHECKING:
    from selfrag.annotate.inspection import DataRow

_COLOURS: dict[type[ReflectionToken], str] = {
    Retrieve: "bold cyan",
    Relevance: "bold magenta",
    Support: "bold green",
    Utility: "bold yellow",
}


def show_row(row: "DataRow", *, full: bool) -> None:
    """One row; of its passages the beginning, or with `full` all."""
    stdout.rule(escape(_printable(f"{row.id} ({row.dataset})")), align="left", style="dim")
    shown = Text(_printable(row.instruction) + "\n", style="bold")
    for span in row.spans:
        text = _printable(span.text)
        if span.token is not None:
            shown.append(text, style=_COLOURS.get(type(span.token), "red"))
        elif span.is_passage:
            shown.append(text if full or len(text) <= 100 else f"{text[:100]}…", style="dim")
        else:
            shown.append(text, style="not bold")
    stdout.print(shown)


def _printable(text: str) -> str:
    """`text` without what a terminal would obey instead of showing."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def _agreement(agreed: Mapping[str, Any]) -> str:
    low, high = agreed["interval"]
    return (
        f"{agreed['share']:.0%} of {agreed['n']} ({low:.0%} to {high:.0%}), kappa {agreed['kappa']}"
    )


def show_labels(summary: Mapping[str, Any]) -> None:
    """The counts, the agreement and the rejects of a report as tables."""
    table = Table("group", "label", "count", "agreement with gold", title=summary["teacher"])
    for group, counts in summary["counts"].items():
        agreed = summary["agreement"].get(group)
        told = _agreement(agreed) if agreed else ""
        for n, (label, count) in enumerate(counts.items()):
            first = n == 0
            table.add_row(group if first else "", escape(label), str(count), told if first else "")
    stdout.print(table)
    for group, by_set in summary["agreement_by_set"].items():
        for name, agreed in by_set.items() if len(by_set) > 1 else ():
            stdout.print(f"{group}, {name}: {_agreement(agreed)}", markup=False)
    for reason, count in summary["rejects"].items():
        stdout.print(f"rejected, {reason}: {count}", markup=False)
