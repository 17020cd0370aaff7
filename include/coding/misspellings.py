"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def suggest_names(unknown: Iterable[str], names: Collection[str]) -> str:
    """Return the unknown names for a message, each with the name that was probably meant, if there is one."""
    spellings = {name.lower(): name for name in names}

    def suggest(name: str) -> str:
        matches = get_close_matches(name.lower(), spellings, n=1)
        return f"{name!r} (did you mean {spellings[matches[0]]!r}?)" if matches else repr(name)

    return ", ".join(suggest(name) for name in sorted(unknown))
