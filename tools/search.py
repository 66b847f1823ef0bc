"""The command `robust-reid search`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.search import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
