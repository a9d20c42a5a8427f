"""The command line: the only package that turns names into engines and indexes."""

from selfrag.cli.app import main

__all__ = ["main"]
