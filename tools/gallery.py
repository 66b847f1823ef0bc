"""The command `robust-reid gallery`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.gallery import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
