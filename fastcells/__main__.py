"""`python -m fastcells`: see fastcells.cli."""

from .cli import main

main()
