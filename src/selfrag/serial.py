"""Fields of config dataclasses that are settings with a help text and names on the command line.

Knows nothing of the command line; `cli.options` reads the metadata.
"""

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def setting(default: T, help: str, *names: str) -> T:
    """A dataclass field that is an option: its help, and its names where not the field's own."""
    return field(default=default, metadata={"help": help, "names": names})
