"""Measure the project, side by side with other ways to do the same work.

Without sections and options, the data steps are measured and docs/performance.md is written, in less than ten minutes
after the first time, which also makes the records. It fails, and writes nothing, if a ratio has fallen behind that of
the page by more than its spread; `--accept` writes the page all the same. `--details` measures the other sections
that have no page of their own, and writes docs/performance-details.md (about 25 minutes). With sections, the figures
are only printed, except those of `scale` and `scale-postgres`, which run a hundred million records, of `year`, a
backfill of 365 days, and of `workers`: they write pages of their own.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bench.measure import ROOT
from bench.page import write_page
from bench.ratios import Ratio, find_regressions, read_ratios, write_ratios

PAGE = ROOT / "docs" / "performance.md"
RATIOS = ROOT / "docs" / "performance.json"
DETAILS_PAGE = ROOT / "docs" / "performance-details.md"


@dataclass(frozen=True)
class Sizes:
    """How much each section measures.

    :param rows: records of the data steps and of the end-to-end runs; None for the sizes of the pages
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


def measure_data_steps(rows: int | None, ratios: dict[str, Ratio], *, with_picture: bool = False) -> Iterator[str]:
    """Yield the text of the standard page.

    :param ratios: receives the ratios of this pipeline to others
    """
    yield from importlib.import_module("bench.data_work").sections(rows, ratios, with_picture=with_picture)


def measure_scale(rows: int | None, warehouse: str) -> Iterator[str]:
    """Yield the text of a page about a run of many records."""
    yield from importlib.import_module("bench.scale").sections(rows, warehouse)


def measure_in_a_process(title: str, module: str, *options: str) -> Iterator[str]:
    """Yield the output of a module that is measured in a process of its own, for its figures of memory."""
    command = [sys.executable, "-m", f"bench.{module}", *options]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield f"## {title}\n\n```\n{output.strip()}\n```"


DETAILS: dict[str, Callable[[Sizes], Iterator[str]]] = {
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
SECTIONS = {
    "data-steps": lambda sizes: measure_data_steps(sizes.rows, {}),
    "scale": lambda sizes: measure_scale(sizes.rows, "DuckDB"),
    "scale-postgres": lambda sizes: measure_scale(sizes.rows, "PostgreSQL"),
    "workers": lambda sizes: importlib.import_module("bench.workers").sections(),
    "year": lambda sizes: measure("backfill", 365),
    **DETAILS,
}


def main() -> int:
    options = parse_arguments()
    sizes = QUICK if options.quick else FULL
    changes = {name: value for name in ("rows", "days", "gigabytes", "draws") if (value := getattr(options, name))}
    sizes = replace(sizes, **changes)
    if options.sections:
        for name in options.sections:
            collect(SECTIONS[name](sizes))
    elif options.details:
        texts = collect(text for measure_section in DETAILS.values() for text in measure_section(sizes))
        if sizes == FULL:
            print(write_page("Performance in detail", "make bench OPTIONS=--details", texts, DETAILS_PAGE))
    else:
        return write_standard_page(sizes, accept=options.accept)
    return 0


def write_standard_page(sizes: Sizes, *, accept: bool) -> int:
    """Measure the data steps, and write their page if all sizes were measured and no ratio has fallen behind."""
    ratios: dict[str, Ratio] = {}
    is_complete = sizes.rows is None
    texts = collect(measure_data_steps(sizes.rows, ratios, with_picture=is_complete))
    regressions = find_regressions(ratios, read_ratios(RATIOS))
    for sentence in regressions:
        print(f"Fallen behind: {sentence}", file=sys.stderr)
    if regressions and not accept:
        return 1
    if is_complete:
        print(write_page("Performance", "make bench", texts, PAGE))
        write_ratios(RATIOS, ratios)
    return 0


def collect(texts: Iterator[str]) -> list[str]:
    """Print each text as soon as it is there, and return all of them."""
    collected = []
    for text in texts:
        print(text, end="\n\n", flush=True)
        collected.append(text)
    return collected


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = f"what to measure: {', '.join(SECTIONS)}; default: data-steps"
    # not with `choices`, which argparse would also compare with the empty list of no sections
    parser.add_argument("sections", nargs="*", metavar="SECTION", type=check_section, help=sections)
    parser.add_argument(
        "--details", action="store_true", help="measure the other sections without a page of their own"
    )
    parser.add_argument("--accept", action="store_true", help="write the page although a ratio has fallen behind")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest useful size of each section, except of year and workers"
    )
    parser.add_argument(
        "--rows", type=int, help="records of data-steps, scale, scale-postgres, formats, servers, end-to-end"
    )
    parser.add_argument("--days", type=int, help=f"days of the backfill (default {FULL.days})")
    parser.add_argument(
        "--gigabytes", type=int, choices=range(1, 6), help=f"upload to the local service (default {FULL.gigabytes})"
    )
    parser.add_argument("--draws", type=int, help=f"evaluations of the local coder (default {FULL.draws})")
    return parser.parse_args()


def check_section(name: str) -> str:
    """Return the name of a section if there is such a section."""
    if name not in SECTIONS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(SECTIONS)}")
    return name


if __name__ == "__main__":
    sys.exit(main())
