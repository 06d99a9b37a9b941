"""`python -m guiderec`: the command line where its script is not on the path, as `python -m guiderec train ...`."""

from guiderec.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
