"""The classification files of the service: the shipped one, the folder of imported ones, and their first edition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from include.local_service.coder.files import write_atomically

SHIPPED_CLASSIFICATION: Final = Path(__file__).with_name("classification.jsonl")
IMPORT_FOLDER: Final = "classifications"  # in the data folder
EDITIONS: Final = 2  # of a classification: the second one is complete, the first one lacks some examples
_EXAMPLE_FIELDS = ("titles", "tasks")
_OMITTED_EVERY = 3  # the first edition lacks every third example of an occupation


def write_first_edition(classification: Path, path: Path) -> Path:
    """Write the first edition of a classification: the same codes, but without every third example.

    :param classification: JSONL, one category a line, some with lists of ``titles`` and ``tasks``.
    :param path: the file to write. It is replaced as a whole; its folder is created if it is missing.
    """
    with classification.open(encoding="utf-8") as lines:
        rows = [_omit_examples(json.loads(line)) for line in lines if line.strip()]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return path


def _omit_examples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _omit_every_third(value) if name in _EXAMPLE_FIELDS else value for name, value in row.items()}


def _omit_every_third(examples: list[str]) -> list[str]:
    return [example for number, example in enumerate(examples, 1) if number % _OMITTED_EVERY]
