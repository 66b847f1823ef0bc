"""The command `robust-reid compare`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.compare import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
