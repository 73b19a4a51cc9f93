"""`python -m lumiply`: the command line."""

from lumiply.cli import main

if __name__ == "__main__":
    main(prog_name="lumiply")
