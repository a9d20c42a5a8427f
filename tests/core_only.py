"""`selfrag` as it runs where no extra is installed: packages of extras cannot be imported.

Run as a program with commands, each a list of arguments, as JSON on standard input; prints what
each ended with: exit code, standard output, standard error.
"""

import importlib.metadata
import io
import json
import re
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def core_distributions() -> set[str]:
    """The dependencies of selfrag without extras, and theirs, by their normal names."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    ahead = [Requirement(text) for text in project["dependencies"]]
    while ahead:
        needed = ahead.pop()
        extras = needed.extras or {""}
        marker = needed.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if (name := normal(needed.name)) not in found:
            found.add(name)
            ahead += map(Requirement, importlib.metadata.requires(name) or ())
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def hide_extras() -> None:
    """Makes the import of every package that the core does not bring fail."""
    core = core_distributions() | {"selfrag", "pip"}
    for package, owners in importlib.metadata.packages_distributions().items():
        if not {normal(owner) for owner in owners} & core:
            sys.modules[package] = None  # type: ignore[assignment]


def run(arguments: list[str]) -> tuple[int, str, str]:
    from selfrag.cli import main

    sys.argv = ["selfrag", *arguments]
    code = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    hide_extras()
    json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
