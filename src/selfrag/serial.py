"""Fields of config dataclasses that are settings with a help text and names on the command line.

Knows nothing of the command line; `cli.options` reads the metadata.
"""

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(default: T, help: str, *names: str, least: int | None = None) -> T:
    """A dataclass field that is an option: its help, and its names where not the field's own.

    The command line refuses numbers under `least`.
    """
    return field(default=default, metadata={"help": help, "names": names, "least": least})
