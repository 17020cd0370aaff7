"""All figures, and the page of them: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from bench import backfill, data_work, end_to_end, servers
from bench.measure import ROOT
from bench.page import heading

PAGE = ROOT / "docs" / "performance.md"
#: Figures of single parts, which print themselves.
OTHERS = {"The DAG file": "dag_parse", "The local service": "local_service", "Its coder": "local_coder"}


def main() -> None:
    written = [heading()]
    for section in sections():
        print(section, end="\n\n", flush=True)
        written.append(section)
    PAGE.write_text("\n\n".join(written) + "\n", encoding="utf-8")
    print(f"Written: {PAGE.relative_to(ROOT)}")


def sections() -> Iterator[str]:
    """Measure everything, and yield the page piece by piece."""
    yield from data_work.sections(data_work.SIZES)
    yield from servers.sections()
    yield from end_to_end.sections()
    yield from backfill.sections(backfill.DAYS)
    for title, module in OTHERS.items():
        command = [sys.executable, "-m", f"bench.{module}"]
        told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        yield f"## {title}\n\n```\n{told.strip()}\n```"


if __name__ == "__main__":
    main()
