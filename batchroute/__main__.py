"""`python -m batchroute …` is the same as `batchroute …`."""

from batchroute.cli import main

if __name__ == "__main__":
    main()
