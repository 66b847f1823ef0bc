"""The command `robust-reid extract`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.extract import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
