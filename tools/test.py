"""The command `robust-reid test`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.test import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
