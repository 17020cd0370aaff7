"""Files by their URI."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from include.coding.errors import PlanError


def pattern_of(path: Path) -> str:
    """The path as the engine wants it, which else would read 'answers1.csv' for 'answers[1].csv'."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def path_from_uri(uri: str) -> Path:
    """Path of a `file:///...` URI; the other way is `Path.as_uri`.

    :raises PlanError: any other kind of URI, one that names a host (as `file://data` does), or a relative one
    """
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise PlanError(f"{uri!r} is not the URI of a local file; expected one such as 'file:///data/staging'")
    return Path(unquote(parts.path))


path_of = path_from_uri  # until every room says `path_from_uri`


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file that is complete or absent at any moment.

    :param mode: permissions of the file, before the umask of the process
    """
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
