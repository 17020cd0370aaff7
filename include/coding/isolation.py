"""Which texts to send again after operations failed, so that a few lines do not cost the results of all others.

An operation that failed is repeated once, as a new operation. If it fails again, its lines are split into pieces, and
so are the pieces that fail, until a piece has one line; that line is sent alone once more. If a whole round fails,
one text that the model has coded before is sent as a control: if that fails too, the service is at fault and not the
lines, and nothing more is sent. Texts that got no answer in a complete operation are sent once more, together.

Texts that another run had claimed and did not deliver are a piece of their own, which is treated like a part.

Everything here is a function of what happened so far: files, calls and tables are the matter of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from include.coding.handoff import (
    Count,
    Handoff,
    InputFile,
    PartNumber,
    PlainId,
    RunFile,
    Seconds,
    Sha256,
    Text,
    Word,
)

#: Maximum number of operations in a run, beside one for each part. One bad line among 500,000 needs up to 56.
MAX_EXTRA_OPERATIONS = 60
#: A piece that fails is split into this many. 9 to the power of 6 exceeds 500,000: six rounds isolate one line.
PIECES_PER_SPLIT = 9
#: One operation is kept for the texts without an answer.
_RESERVED_OPERATIONS = 1
#: Kind and parent of a piece, its first line and number of lines.
Lines = tuple["Kind", int | None, int, int]

COMPLETE, FAILED, TIMED_OUT = "complete", "failed", "timed_out"
#: State of a piece whose lines are in another operation of their part now.
SUPERSEDED = "superseded"


class Kind(StrEnum):
    """Where the lines of a piece come from."""

    PART = "part"  # all lines of a part, coded by the tasks of the part itself
    AGAIN = "again"  # the same lines as its parent, once more
    SPLIT = "split"  # some lines of its parent
    UNANSWERED = "unanswered"  # the texts of complete operations that had no usable output line
    UNDELIVERED = "undelivered"  # texts whose results another run was to deliver and has not
    CONTROL = "control"  # one text that the model has coded before


@dataclass(frozen=True)
class Piece(Handoff):
    """Lines that one operation codes, and how that operation ended.

    :param number: position in the list of all pieces
    :param parent: number of the piece that had the same lines before; None if there is none
    :param first: its first line in the file of its parent, from 0
    :param records: number of lines
    :param round: pieces of a round are sent at the same time; 0 for parts
    :param part: number that its operation has in the tables
    :param state: how the operation ended; None if it has not
    :param problem: why the lines may still get a result, or cannot be sent; None in all other cases
    :param input_uri, bytes, sha256: its input file
    :param operation_id: operation that has received the input file; None before
    :param deadline: until when to wait for it, in seconds since the epoch
    :param output_uri, metadata_uri: files that were downloaded
    :param usable: texts with a result, once they are stored; None before
    :param unanswered, unanswered_uri: texts of a complete operation without a result: their number and their file
    :param is_gathered: whether these were sent once more, with those of other pieces
    """

    number: PartNumber
    kind: Kind
    parent: PartNumber | None
    first: Count
    records: Count
    round: PartNumber
    part: PartNumber
    state: Word | None = None
    problem: Text | None = None
    input_uri: InputFile = ""
    bytes: Count = 0
    sha256: Sha256 = ""
    operation_id: PlainId | None = None
    deadline: Seconds = 0.0
    output_uri: RunFile | None = None
    metadata_uri: RunFile | None = None
    usable: Count | None = None
    unanswered: Count = 0
    unanswered_uri: RunFile | None = None
    is_gathered: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether the operation ended without any result."""
        return self.state in (FAILED, TIMED_OUT)

    @property
    def is_extra(self) -> bool:
        return self.kind is not Kind.PART

    @property
    def has_output(self) -> bool:
        """Whether the output is needed. That of a control is known: it only shows whether the service works."""
        return self.kind is not Kind.CONTROL


class Isolation:
    """What the pieces so far say about their lines, and about the service.

    Its lists of pieces: `unexplained` failed and were not sent again; `refused` are those of them whose only line is
    at fault; `silent` have texts without an answer in two complete operations, `ungathered` in one.

    :param pieces: all pieces, in the order of their numbers; all have ended
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._parents = {piece.parent for piece in pieces}
        self.unexplained = [piece for piece in pieces if self._is_unexplained(piece)]
        self.refused = [piece for piece in self.unexplained if self._is_refused(piece)]
        unanswered = [piece for piece in pieces if piece.unanswered]
        self.silent = [piece for piece in unanswered if self._is_second_attempt(piece)]
        self.ungathered = [piece for piece in unanswered if not (piece.is_gathered or piece in self.silent)]

    @property
    def is_service_failing(self) -> bool:
        """Whether the last operation was a control that failed as well."""
        last = self._pieces[-1] if self._pieces else None
        return last is not None and last.kind is Kind.CONTROL and last.state not in (COMPLETE, SUPERSEDED)

    @property
    def has_success(self) -> bool:
        """Whether an extra operation was complete."""
        return any(piece.state == COMPLETE and piece.is_extra for piece in self._pieces)

    @property
    def can_send(self) -> bool:
        """Whether another operation can and should be opened."""
        return not self.is_service_failing and self.remaining_operations > 0

    @property
    def remaining_operations(self) -> int:
        """Number of operations that the run may still open."""
        return MAX_EXTRA_OPERATIONS - sum(piece.is_extra for piece in self._pieces)

    def next_round(self, part: int, *, has_control: bool, needs_control: bool = False) -> list[Piece]:
        """Return the pieces to send now; none if nothing more can or should be sent.

        :param part: number of the first piece's operation in the tables
        :param has_control: whether there is a text that the model has coded before
        :param needs_control: whether a control is needed for another reason than failed operations
        """
        if not self.can_send:
            return []
        is_doubtful = self._is_doubtful
        if has_control and (is_doubtful or (needs_control and not self._has_working_control)):
            plans: list[Lines] = [(Kind.CONTROL, None, 0, 1)]
        else:
            plans = self._plan_isolation(is_doubtful or self._is_last_round_fruitless) or self._plan_unanswered()
        number, next_round = len(self._pieces), self._last_round + 1
        return [
            Piece(number + index, kind, parent, first, records, next_round, part + index)
            for index, (kind, parent, first, records) in enumerate(plans)
        ]

    def _is_unexplained(self, piece: Piece) -> bool:
        return piece.has_failed and piece.kind is not Kind.CONTROL and piece.number not in self._parents

    def _is_second_attempt(self, piece: Piece) -> bool:
        """Whether the lines of a piece were in a complete operation before, without an answer."""
        while piece.kind is not Kind.UNANSWERED:
            if piece.parent is None:
                return False
            piece = self._pieces[piece.parent]
        return True

    def _is_refused(self, piece: Piece) -> bool:
        """Whether the service has refused a line: twice alone, while it completed other operations."""
        return self._has_failed_twice_alone(piece) and piece.state == FAILED and self._is_proven(piece)

    def _has_failed_twice_alone(self, piece: Piece) -> bool:
        return piece.records == 1 and piece.parent is not None and self._pieces[piece.parent].records == 1

    def _is_proven(self, piece: Piece) -> bool:
        """Whether another operation has completed since the piece, or since its line was first sent alone."""
        since = piece.round
        if piece.kind is Kind.AGAIN and piece.records == 1 and piece.parent is not None:
            since = self._pieces[piece.parent].round
        return any(other.state == COMPLETE and other.is_extra and other.round >= since for other in self._pieces)

    @property
    def _last_round(self) -> int:
        return self._pieces[-1].round if self._pieces else 0

    @property
    def _last_pieces(self) -> list[Piece]:
        """The pieces of the last round, apart from controls."""
        pieces = [piece for piece in self._pieces if piece.kind is not Kind.CONTROL and piece.is_extra]
        return [piece for piece in pieces if piece.round == pieces[-1].round]

    @property
    def _is_last_round_fruitless(self) -> bool:
        """Whether every operation of the last round failed. One part shows nothing, even if it was sent twice,
        because it may have a bad line."""
        pieces = self._last_pieces
        is_one_part = len(pieces) == 1 and pieces[0].kind in (Kind.AGAIN, Kind.UNDELIVERED) and pieces[0].records > 1
        return bool(pieces) and all(piece.has_failed for piece in pieces) and not is_one_part

    @property
    def _is_doubtful(self) -> bool:
        """Whether the service may be failing everything."""
        return self._is_last_round_fruitless and not any(self._is_proven(piece) for piece in self._last_pieces)

    @property
    def _has_working_control(self) -> bool:
        return any(piece.kind is Kind.CONTROL and piece.state == COMPLETE for piece in self._pieces)

    def _plan_isolation(self, is_cautious: bool) -> list[Lines]:
        """Return the pieces that isolate the lines at fault.

        :param is_cautious: whether to split one piece only, because no operation of the last round was complete
        """
        budget = self.remaining_operations - (0 if self._has_unanswered_piece else _RESERVED_OPERATIONS)
        open_pieces = [piece for piece in self.unexplained if not self._has_failed_twice_alone(piece)]
        first_attempts = (Kind.PART, Kind.UNDELIVERED)
        repeated = [piece for piece in open_pieces if piece.kind in first_attempts or piece.records == 1]
        repeated = repeated[: max(0, budget)]
        plans: list[Lines] = [(Kind.AGAIN, piece.number, 0, piece.records) for piece in repeated]
        large = [piece for piece in open_pieces if piece.kind not in first_attempts and piece.records > 1]
        if is_cautious:
            large = sorted(large, key=lambda piece: piece.records)[:1]
        for piece in sorted(large, key=self._expect_results, reverse=True):
            count = min(PIECES_PER_SPLIT, piece.records, budget - len(plans))
            if count >= 2:
                plans += [(Kind.SPLIT, piece.number, *span) for span in split_lines(piece.records, count)]
        return plans

    def _plan_unanswered(self) -> list[Lines]:
        records = sum(piece.unanswered for piece in self.ungathered)
        return [(Kind.UNANSWERED, None, 0, records)] if records else []

    @property
    def _has_unanswered_piece(self) -> bool:
        return any(piece.kind is Kind.UNANSWERED for piece in self._pieces)

    def _expect_results(self, piece: Piece) -> float:
        """Return how many lines a split is expected to code, judging by other pieces that were split as often."""
        depth = self._depth(piece) + 1
        states = [other.state for other in self._pieces if other.kind is Kind.SPLIT and self._depth(other) == depth]
        return piece.records * (states.count(COMPLETE) / len(states) if states else 1.0)

    def _depth(self, piece: Piece) -> int:
        depth = 0
        while piece.parent is not None:
            depth += piece.kind is Kind.SPLIT
            piece = self._pieces[piece.parent]
        return depth


def split_lines(records: int, count: int) -> list[tuple[int, int]]:
    """Return first line and number of lines of `count` pieces of nearly equal size."""
    bounds = [records * index // count for index in range(count + 1)]
    return [(first, last - first) for first, last in pairwise(bounds)]
