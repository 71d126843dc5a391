"""`python -m kdexp` is the `kdexp` command."""

from kdexp.cli import main

if __name__ == "__main__":
    main()
