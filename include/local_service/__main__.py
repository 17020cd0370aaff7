"""Runs a command of the local coding service: ``python -m include.local_service --help``."""

import os
import sys

from include.local_service.cli.commands import main

if __name__ == "__main__":
    os.umask(0o077)  # its files contain people's texts
    sys.exit(main())
