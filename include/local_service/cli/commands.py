"""The table of the commands, and the parser of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

PROGRAM = "python -m include.local_service"
DESCRIPTION = """\
A local stand-in for the occupation coding service: the same API with a real coder behind it, for trials and
tests. README.md in this package lists what it emulates.
"""
EXAMPLES = f"""\
examples:
  {PROGRAM}                            serve on port 8070
  {PROGRAM} --port 8071 --data DIR     the word `serve` is optional
  {PROGRAM} serve --help               all options of the service
  {PROGRAM} status                     topics, models and operations of a running service
  {PROGRAM} code "aged care worker" --tasks "looks after residents"
"""


class Command(NamedTuple):
    """A command: its help text, and the module with its ``add_arguments(parser)`` and ``run(options)``."""

    summary: str
    module: str

    def load(self) -> ModuleType:
        """Import the module. Only the selected command is imported: those with the coder take a second."""
        return import_module(f"include.local_service.cli.{self.module}")


COMMANDS: Mapping[str, Command] = {
    "serve": Command("run the service (the default command)", "serve"),
    "status": Command("show topics, models and operations of a running service", "status"),
    "import": Command("import a classification from workbooks (OSCA, ANZSCO)", "import_topic"),
    "train": Command("train the coders of a topic now, not at their first use", "train"),
    "evaluate": Command("measure the accuracy and the confidence of a coder", "evaluate"),
    "code": Command("code one text without a running service", "code"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options, except for None, False and the empty string."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "", False) else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the command line and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in (*COMMANDS, "-h", "--help"):
        words.insert(0, "serve")
    name = words[0]
    options = _make_parser(name).parse_args(words)
    status: int = COMMANDS[name].load().run(options)
    return status


def _make_parser(selected: str) -> argparse.ArgumentParser:
    """Return a parser that knows the names of all commands, and the options of the selected one."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.summary, description=command.summary, formatter_class=HelpFormatter
        )
        if name == selected:
            command.load().add_arguments(subparser)
    return parser
