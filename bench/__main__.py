"""Measure the project, side by side with other ways to do the same work.

Without sections and options, everything is measured and docs/performance.md is written (about 25 minutes). Otherwise
the figures are only printed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bench.measure import ROOT
from bench.page import heading

PAGE = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Sizes:
    """How much each section measures.

    :param rows: records of the data steps and of the end-to-end runs; None for the sizes of the page
    :param days: days of the backfill
    :param gigabytes: size of the upload to the local service
    :param draws: draws of held-out titles for the coder
    """

    rows: int | None = None
    days: int = 30
    gigabytes: int = 1
    draws: int = 5


FULL, QUICK = Sizes(), Sizes(rows=100_000, days=2, draws=1)


def measure(module: str, size: int | None) -> Iterator[str]:
    """Yield the text of a section. Its module is imported only now, because this takes seconds."""
    yield from importlib.import_module(f"bench.{module}").sections(size)


def measure_in_a_process(title: str, module: str, *options: str) -> Iterator[str]:
    """Yield the output of a module that is measured in a process of its own, for its figures of memory."""
    command = [sys.executable, "-m", f"bench.{module}", *options]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield f"## {title}\n\n```\n{output.strip()}\n```"


SECTIONS: dict[str, Callable[[Sizes], Iterator[str]]] = {
    "data-steps": lambda sizes: measure("data_work", sizes.rows),
    "formats": lambda sizes: measure("formats", sizes.rows),
    "servers": lambda sizes: measure("servers", sizes.rows),
    "end-to-end": lambda sizes: measure("end_to_end", sizes.rows),
    "backfill": lambda sizes: measure("backfill", sizes.days),
    "dag-parse": lambda sizes: measure_in_a_process("The DAG file", "dag_parse"),
    "page": lambda sizes: measure_in_a_process("The Coding page", "coding_page"),
    "local-service": lambda sizes: measure_in_a_process(
        "The local service", "local_service", "--gigabytes", str(sizes.gigabytes)
    ),
    "local-coder": lambda sizes: measure_in_a_process("Its coder", "local_coder", "--draws", str(sizes.draws)),
}


def main() -> None:
    options = parse_arguments()
    sizes = QUICK if options.quick else FULL
    changes = {name: value for name in ("rows", "days", "gigabytes", "draws") if (value := getattr(options, name))}
    sizes = replace(sizes, **changes)
    page = [heading()]
    for name in options.sections or SECTIONS:
        for text in SECTIONS[name](sizes):
            print(text, end="\n\n", flush=True)
            page.append(text)
    if not options.sections and sizes == FULL:
        PAGE.write_text("\n\n".join(page) + "\n", encoding="utf-8")
        print(f"Wrote {PAGE.relative_to(ROOT)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = f"what to measure: {', '.join(SECTIONS)}; default: all of them"
    parser.add_argument("sections", nargs="*", metavar="SECTION", choices=list(SECTIONS), help=sections)
    parser.add_argument("--quick", action="store_true", help="the smallest useful size of each section")
    parser.add_argument("--rows", type=int, help="records of data-steps, formats, servers and end-to-end")
    parser.add_argument("--days", type=int, help=f"days of the backfill (default {FULL.days})")
    parser.add_argument(
        "--gigabytes", type=int, choices=range(1, 6), help=f"upload to the local service (default {FULL.gigabytes})"
    )
    parser.add_argument("--draws", type=int, help=f"evaluations of the local coder (default {FULL.draws})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
