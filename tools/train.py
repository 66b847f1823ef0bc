"""The command `robust-reid train`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.train import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
