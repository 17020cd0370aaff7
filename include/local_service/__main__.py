"""Runs a command of the local coding service: ``python -m include.local_service --help``."""

import sys

from include.local_service.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
