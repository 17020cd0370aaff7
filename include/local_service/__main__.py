"""``python -m include.local_service``: the local coding service on the command line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

PROGRAM = "python -m include.local_service"
DESCRIPTION = """\
The occupation coding service on this machine: the same API, with a real coder behind it. For trials,
tests and rehearsals; see README.md beside this program for what it emulates and what not.
"""
EXAMPLES = f"""\
examples:
  {PROGRAM}                            serve on port 8070
  {PROGRAM} --port 8071 --data DIR     `serve` need not be said
  {PROGRAM} serve --help               all options of the service
  {PROGRAM} status                     what a running service offers and does
  {PROGRAM} code "aged care worker" --tasks "looks after residents"
"""


class Command(NamedTuple):
    """A command: what it is for, and the module with its arguments and its doing."""

    summary: str
    module: str


COMMANDS: Mapping[str, Command] = {
    "serve": Command("run the service; what is done when no command is given", "serve"),
    "status": Command("show topics, models and operations of a running service", "status"),
    "import": Command("make a topic of a classification's workbooks (OSCA, ANZSCO)", "training"),
    "train": Command("train the coders now instead of at the first call", "training"),
    "evaluate": Command("show how often a coder is right, and how far its confidence can be trusted", "training"),
    "code": Command("code one text here, without a service", "training"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but only those that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", False) else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "serve")
    name = given[0]
    chosen = _make_parser(name).parse_args(given)
    status: int = getattr(_load(name), f"{name}_command")(chosen)
    return status


def _make_parser(name: str) -> argparse.ArgumentParser:
    """Return a parser that knows every command by name, and the options of this one."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for known, command in COMMANDS.items():
        own = commands.add_parser(
            known,
            help=command.summary,
            description=command.summary,
            formatter_class=HelpFormatter,
        )
        if known == name:
            getattr(_load(name), f"add_{name}_arguments")(own)
    return parser


def _load(name: str) -> ModuleType:
    # Only the module of the command that is asked for: those with the coder take a second to import.
    return importlib.import_module(f"include.local_service.{COMMANDS[name].module}")


if __name__ == "__main__":
    sys.exit(main())
