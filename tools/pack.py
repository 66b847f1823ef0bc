"""The command `robust-reid pack`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.pack import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
