"""Lets `python -m kdexp` run the `kdexp` command."""

from kdexp.commands.main import main

if __name__ == "__main__":
    main()
