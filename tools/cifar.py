"""The command `robust-reid cifar`, run from a checkout."""

import sys

from reid import cli
from reid.verbs.cifar import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
