"""The classification that an earlier model was trained on: fewer examples than there are today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXAMPLES = ("titles", "tasks")
LEFT_OUT = 3
"""The first edition lacks every example of an occupation whose number has this divisor."""


def write_first_edition(classification: Path, path: Path) -> Path:
    """Write the classification as the first model knew it: same codes, every third example missing.

    :param classification: JSONL, one category a line, some with lists of ``titles`` and ``tasks``.
    :param path: where to write; it appears whole or not at all, its folder is made when missing.
    """
    with classification.open(encoding="utf-8") as lines:
        rows = [_thin_out(json.loads(line)) for line in lines if line.strip()]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return unfinished.replace(path)


def _thin_out(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _without_every_third(value) if name in EXAMPLES else value for name, value in row.items()}


def _without_every_third(examples: list[str]) -> list[str]:
    return [example for number, example in enumerate(examples, 1) if number % LEFT_OUT]
