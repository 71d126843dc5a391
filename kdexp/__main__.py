"""`python -m kdexp` is the `kdexp` command."""

from kdexp.cli import main

main()
