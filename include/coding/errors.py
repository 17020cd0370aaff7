"""Errors of the data work. :class:`StagingError` and :class:`EngineError` are retryable; for a :class:`DataError`,
somebody has to act."""

from __future__ import annotations


class DataError(Exception):
    """Something is wrong with the data or the settings of a run."""


class PlanError(DataError):
    """The params or settings of the run are impossible or contradict each other."""


class SourceError(DataError):
    """The source is missing, unreadable, or lacks a needed column."""


class IncompleteError(DataError):
    """The output of a part is missing or incomplete; the results that arrived are kept."""


class AuditError(DataError):
    """Counts do not add up, or a threshold is exceeded; nothing was published."""


class StagingError(Exception):
    """The disk or the object storage refuses a file of the run; a retry can succeed."""


class EngineError(Exception):
    """The data engine rejects a statement, for a reason that the project does not expect."""
