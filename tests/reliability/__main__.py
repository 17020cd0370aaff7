"""Run the matrices of crashes and faults, and write docs/reliability.md.

    python -m tests.reliability [--minutes 60] [--seed 1] [--load] [--crashes N] [--singles N] [--pairs N]
                                [--only TEXT] [--page FILE]

After each case the same invariants are checked. The exit status is 1 if one of them does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from tests import conftest  # noqa: F401  sets up an Airflow of its own, and so has to be first
from tests.reliability.crashes import list_crashes, open_crash_lab
from tests.reliability.faults import Case, FaultLab, choose_pairs, list_single_cases
from tests.reliability.load import Load, run_load
from tests.reliability.page import write_page
from tests.reliability.results import Result
from tests.support.postgres import run_postgres


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="start no case after this time, and no crash in the last third of it (default %(default)s)",
    )
    parser.add_argument(
        "--load", action="store_true", help="also run 200 operations at once, first; takes about 40 minutes"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default %(default)s)")
    parser.add_argument("--singles", type=int, help="run only so many single faults, chosen by the seed")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of faults (default %(default)s)")
    parser.add_argument("--crashes", type=int, help="run only so many crashes, chosen by the seed")
    parser.add_argument("--only", default="", help="run only faults whose name contains this text")
    parser.add_argument("--page", type=Path, help="write the results to this file")
    return parser.parse_args(arguments)


@contextmanager
def redirect_output(log: Path) -> Iterator[Callable[[str], None]]:
    """Write what the process prints to a file, and yield a function that still prints to the terminal."""
    terminal = os.fdopen(os.dup(1), "w", buffering=1)
    saved = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda line: print(line, file=terminal, flush=True)
        finally:
            sys.stdout.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)


def choose_cases(options: argparse.Namespace) -> Iterable[Case]:
    """Yield the single faults, then the pairs."""
    chance = random.Random(options.seed)
    singles = [case for case in list_single_cases() if options.only in case.name]
    if options.singles is not None:
        singles = chance.sample(singles, min(options.singles, len(singles)))
    yield from singles
    yield from islice(choose_pairs(chance), options.pairs)


def run_faults(
    options: argparse.Namespace, folder: Path, deadline: float, show: Callable[[str], None], log: Path
) -> list[Result]:
    from airflow.utils.db import initdb

    from include.local_service.http.server import LocalService

    initdb()
    results = []
    with LocalService(folder / "service", coder="stub", progression="immediate") as service:
        lab = FaultLab(service, folder, log)
        for case in choose_cases(options):
            if time.monotonic() > deadline:
                break
            results.append(_run(case.name, partial(lab.run, case), show))
    return results


def measure_load(folder: Path, show: Callable[[str], None]) -> Load:
    """Run many operations at once, and print what did not hold."""
    with run_postgres() as postgres:
        load = run_load(folder / "load", postgres, show)
    show(f"load: {'; '.join(load.violations) or 'holds'}")
    return load


def run_crashes(
    options: argparse.Namespace, folder: Path, deadline: float, show: Callable[[str], None]
) -> list[Result]:
    """Run crashes, in random order, on one stack."""
    crashes = [crash for crash in list_crashes() if options.only in crash.name]
    random.Random(options.seed).shuffle(crashes)
    crashes = crashes[: options.crashes]
    results: list[Result] = []
    if not crashes:
        return results
    with run_postgres() as postgres, open_crash_lab(folder / "stack", postgres) as lab:
        for crash in crashes:
            if time.monotonic() > deadline:
                break
            results.append(_run(crash.name, partial(lab.run, crash), show))
    return results


def _run(name: str, run_case: Callable[[], Result], show: Callable[[str], None]) -> Result:
    """Run a case, and print how it ended. One that cannot be run counts as broken, and the others go on."""
    started = time.monotonic()
    try:
        result = run_case()
    except Exception as error:  # noqa: BLE001  whatever it is, the other cases can go on
        result = Result(name, (), 0, 0, [f"the case could not be run: {type(error).__name__} {error}"])
    verdict = "; ".join(result.violations) or "holds"
    show(f"{result.name}: {', '.join(result.runs)} ({time.monotonic() - started:.0f} s): {verdict}")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        folder = Path(name)
        log = folder / "output.log"
        with redirect_output(log) as show:
            load = measure_load(folder, show) if options.load else None
            deadline = time.monotonic() + 60 * options.minutes
            crashes = run_crashes(options, folder, deadline - 20 * options.minutes, show)
            faults = run_faults(options, folder, deadline, show, log)
    if options.page:
        write_page(options.page, options.seed, load, crashes, faults)
    violations = [f"{result.name}: {text}" for result in [*crashes, *faults] for text in result.violations]
    violations += [f"load: {text}" for text in (load.violations if load else [])]
    if violations:
        sys.exit("\n".join(violations))


if __name__ == "__main__":
    main()
