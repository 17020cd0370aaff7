"""Names of folders that show who created them: each ends with a checksum of its URI.

Folders are removed by age, so their names have to tell them from the folders of people and of other deployments.
"""

from __future__ import annotations

import hashlib

_CHECKSUM_DIGITS = 12


def add_checksum(base: str, name: str) -> str:
    """Return the URI of the folder `name` in `base`, with its checksum.

    :param base: URI of the folder that contains it
    """
    base = base.rstrip("/")
    return f"{base}/{name}-{_checksum(base, name)}"


def has_checksum(base: str, folder: str) -> bool:
    """Return whether :func:`add_checksum` made the name of this folder in `base`."""
    name, _, checksum = folder.rpartition("-")
    return checksum == _checksum(base.rstrip("/"), name)


def _checksum(base: str, name: str) -> str:
    return hashlib.sha256(f"occupation coding {base}/{name}".encode()).hexdigest()[:_CHECKSUM_DIGITS]
