"""What can go wrong with the data. A repetition mends none of these; somebody has to look.

DataError
├── PlanError         the run was asked for something impossible
├── SourceError       the source is missing, unreadable, or not of the shape that is needed
├── IncompleteError   a part did not come back, or not whole; what did come back is kept
└── AuditError        counts do not add up, or a threshold is passed; nothing was published
"""

from __future__ import annotations


class DataError(Exception):
    """Anything wrong with the data of a run."""


class PlanError(DataError):
    """The run was asked for something impossible."""


class SourceError(DataError):
    """The source is missing, unreadable, or not of the shape that is needed."""


class IncompleteError(DataError):
    """A part did not come back, or not whole; what did come back is kept."""


class AuditError(DataError):
    """Counts do not add up, or a threshold is passed; nothing was published."""
