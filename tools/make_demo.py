"""The command `robust-reid render`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.render import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
