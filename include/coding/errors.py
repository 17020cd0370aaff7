"""Errors of the data work. All but the last are permanent: a retry does not help, somebody has to act.

DataError
├── PlanError         the run was asked for something impossible
├── SourceError       the source is missing, unreadable, or lacks a column that is needed
├── IncompleteError   the output of a part is missing or incomplete; the results that arrived are kept
└── AuditError        counts do not add up, or a threshold is exceeded; nothing was published
StagingError          the disk or the object storage refuses a file of the run; retryable
"""

from __future__ import annotations


class DataError(Exception):
    """Something is wrong with the data or the settings of a run."""


class PlanError(DataError):
    """The run was asked for something impossible."""


class SourceError(DataError):
    """The source is missing, unreadable, or lacks a column that is needed."""


class IncompleteError(DataError):
    """The output of a part is missing or incomplete; the results that arrived are kept."""


class AuditError(DataError):
    """Counts do not add up, or a threshold is exceeded; nothing was published."""


class StagingError(Exception):
    """The disk or the object storage refuses a file of the run; a retry may succeed."""
