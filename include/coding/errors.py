"""What can go wrong with the data.

DataError             a repetition mends none of these; somebody has to look
├── PlanError         the run was asked for something impossible
├── SourceError       the source is missing, unreadable, or not of the shape that is needed
├── IncompleteError   a part did not come back, or not whole; what did come back is kept
└── AuditError        counts do not add up, or a threshold is passed; nothing was published
StagingError          the disk or the object storage of a run's files refuses; it may pass
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


class StagingError(Exception):
    """The disk or the object storage of a run's files refuses a file; it may pass."""
