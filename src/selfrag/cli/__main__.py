"""`python -m selfrag.cli`."""

from selfrag.cli.app import main

main()
