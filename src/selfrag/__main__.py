"""`python -m selfrag`."""

from selfrag.cli import main

main()
