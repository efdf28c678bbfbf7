"""`python -m constitutional`."""

from constitutional.cli import main

main()
