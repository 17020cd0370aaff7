"""Collecting the results of a run, and coding again what has none: the state of that work, its files and its tables.

The state is kept after every step in a store that survives the process. If a part has another operation, because the
run was cleared, what was known about its lines is not used any more; for other parts it is. What to send is decided
in :mod:`include.coding.isolation`; the calls are the caller's matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

from include.coding.collect import (
    MAX_ERROR_CHARACTERS,
    NO_RESULT,
    REFUSED_BY_SERVICE,
    CollectedPart,
    find_control_text,
    find_unexplained_operations,
    log_discarded_lines,
    read_part,
    set_texts_aside,
    stage_results,
    stage_texts,
    store_operations,
    store_results,
)
from include.coding.engine import Engine, open_engine
from include.coding.errors import IncompleteError, PlanError
from include.coding.handoff import Count, Handoff, RunFile, Seconds, ShortText, Text
from include.coding.isolation import (
    COMPLETE,
    FAILED,
    MAX_EXTRA_OPERATIONS,
    PIECES_PER_SPLIT,
    SUPERSEDED,
    TIMED_OUT,
    Isolation,
    Kind,
    Piece,
)
from include.coding.parts import Fingerprint, Part, name_input_file, write_input_file
from include.coding.plan import Plan
from include.coding.prepare import Prepared, expect_seconds
from include.coding.results import PartResult, PartSummary
from include.coding.staging import Staging
from include.coding.tables import table
from include.coding.text_claims import Undelivered, find_undelivered_texts, take_over_texts
from include.warehouse.errors import WarehouseBusyError, WarehouseError
from include.warehouse.warehouse import Session, Warehouse

#: Key of the state in the store.
STATE_KEY = "recoding"
#: Up to this many texts without an answer are single bad texts, whatever their share of the texts sent.
MAX_SINGLE_TEXTS = 10
#: Least and most time that other runs get to deliver the texts that they had claimed.
MIN_CLAIMS_WAIT_S, MAX_CLAIMS_WAIT_S = 120.0, 24 * 3600.0
#: Maximum number of problems that a summary lists.
MAX_LISTED_PROBLEMS = 20

log = logging.getLogger(__name__)


class StateStore(Protocol):
    """Keeps JSON values by key, such as Airflow's task state store."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class CollectSummary(Handoff):
    """The results of a run's texts: how many were sent, got a result, were set aside, or are missing.

    :param texts_sent: texts of the run's parts, and those that other runs had claimed but not delivered; each counts
        once, however often it was sent
    :param usable: texts with a result
    :param operations, extra_operations: all operations, and those beside one for each part
    :param no_result, refused: texts that were set aside, because the service never answered or refused them
    :param unresolved, unresolved_uri: texts that the next run sends again: their number and their file
    :param incomplete: operations that may still give results, or whose results cannot be used
    :param problems: why texts are unresolved, or operations incomplete
    """

    texts_sent: Count = 0
    usable: Count = 0
    operations: Count = 0
    extra_operations: Count = 0
    no_result: Count = 0
    refused: Count = 0
    unresolved: Count = 0
    unresolved_uri: RunFile | None = None
    incomplete: Count = 0
    problems: tuple[Text, ...] = ()


@dataclass(frozen=True)
class RecodingState(Handoff):
    """The work so far.

    :param generation: identifies the operations of the parts
    :param usable: texts of the parts with a result
    :param incomplete, problems: the parts that may still give results, or whose results cannot be used: their number,
        and why
    :param pieces: the other parts without all results, then the pieces that were sent again
    :param claims_start: since when the run waits for results that other runs were to deliver, in seconds since the
        epoch; 0 until it waits
    """

    generation: ShortText
    usable: Count
    incomplete: Count
    problems: tuple[Text, ...]
    pieces: tuple[Piece, ...]
    claims_start: Seconds = 0.0

    def __post_init__(self) -> None:
        """Check that pieces can be found by their numbers, and that each is younger than its parent."""
        for number, piece in enumerate(self.pieces):
            if piece.number != number or (piece.parent is not None and piece.parent >= number):
                raise PlanError(f"RecodingState is invalid: pieces.{number}: its number or its parent is wrong")


@dataclass(frozen=True)
class ClaimsWait:
    """How long a run has waited for results that other runs were to deliver, and how long it waits at most."""

    elapsed_s: float
    timeout_s: float

    @property
    def remaining_s(self) -> float:
        """Seconds that are left to wait; negative after the end."""
        return self.timeout_s - self.elapsed_s


class Recoding:
    """Collects the results of a run, and prepares the input files of what has to be coded again.

    :param part_results: one for each part of `prepared`
    :param store: keeps the state
    :param read_error: returns what the service says about an operation that failed, or None
    :param is_in_progress: returns whether the run with this key is queued or running
    """

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        part_results: Sequence[PartResult],
        warehouse: Warehouse,
        staging: Staging,
        store: StateStore,
        read_error: Callable[[str], str | None],
        is_in_progress: Callable[[str], bool] = lambda run_id: True,
    ) -> None:
        self._is_in_progress = is_in_progress
        self.plan, self._prepared, self._part_results = plan, prepared, part_results
        self._warehouse, self._staging, self._store, self._read_error = warehouse, staging, store, read_error
        generation = identify_operations(prepared.parts, part_results)
        data = store.get(STATE_KEY)
        stored = None if data is None else RecodingState.from_dict(data, task="collect", folder=staging.uri)
        if stored is not None and stored.generation == generation:
            self._state = stored
        else:
            state = self._collect_parts(generation)
            self._save(state if stored is None else _carry_over(stored, state))

    # ---- the operations of pieces, which the caller opens and waits for --------------------------------------------

    def next_pieces(self) -> list[Piece]:
        """Return the pieces whose operations have not ended; if there are none, keep the results and return the
        pieces of the next round, whose input files are written. Without any, the work is done.

        :raises IncompleteError: an input file does not exist any more
        """
        if not self.running_pieces:
            self._collect_pieces()
            pieces = Isolation(self._state.pieces).next_round(
                len(self._prepared.parts) + len(self._extra_pieces),
                has_control=self._find_control() is not None,
                needs_control=self._needs_control,
            )
            if pieces:
                counts = Counter(piece.kind.value for piece in pieces)
                kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
                log.info("Coding again in round %d, in %d operations: %s", pieces[0].round, len(pieces), kinds)
                ready_pieces = self._write_input_files(pieces)
                is_gathered = any(piece.kind is Kind.UNANSWERED for piece in pieces)
                earlier = (
                    replace(piece, is_gathered=piece.is_gathered or (is_gathered and piece.unanswered > 0))
                    for piece in self._state.pieces
                )
                self._save(replace(self._state, pieces=(*earlier, *ready_pieces)))
        return self.running_pieces

    def update(self, piece: Piece, **changes: Any) -> Piece:
        """Keep what happened to a piece, and return it with its changes."""
        changed = replace(piece, **changes)
        pieces = tuple(changed if other.number == piece.number else other for other in self._state.pieces)
        self._save(replace(self._state, pieces=pieces))
        return changed

    def settle_claims(self, now: float) -> ClaimsWait | None:
        """Return how long to wait for texts that other runs had claimed and that have no result yet; None if there is
        nothing to wait for. When these runs have ended, or had as much time as their operation takes, the texts
        become pieces, which this run sends, and there is nothing more to wait for.

        A run that cannot publish anything does not wait. One that can send nothing more, or has no sign that the
        service works, waits, but leaves the texts to the next run if they are not delivered.

        :param now: seconds since the epoch
        :raises PlanError: more texts are to be sent than `prepare` has counted
        """
        if self._prepared.awaited_uri is None or self._is_incomplete:
            return None
        with self._open_engine() as engine:
            undelivered = self._find_undelivered_texts(engine)
            texts, claimants = undelivered.texts, undelivered.claimants
            if not texts:
                return None
            if not self._state.claims_start:
                self._save(replace(self._state, claims_start=now))
            wait = ClaimsWait(now - self._state.claims_start, self._measure_claims_timeout_s(claimants))
            if wait.remaining_s > 0 and any(map(self._is_in_progress, sorted(claimants))):
                log.info("%s texts that other runs send have no result yet", f"{texts:,}")
                return wait
            isolation = Isolation(self._state.pieces)
            if not (isolation.can_send and (self._has_results or isolation.has_success)):
                return None
            if wait.remaining_s > 0:
                texts = take_over_texts(engine, self.plan, self._warehouse, self._is_in_progress)
                if not texts:  # yet another run has taken them over, or their results have just been stored
                    return wait
            log.warning("%s texts have no result from the runs that claimed them; this run sends them", f"{texts:,}")
            self._save(replace(self._state, pieces=(*self._state.pieces, *self._write_undelivered(engine, texts))))
        return None

    def _write_undelivered(self, engine: Engine, texts: int) -> Iterator[Piece]:
        """Write the texts of the engine's table `undelivered_texts` to input files, and yield the pieces."""
        pieces, lines = self._state.pieces, self.plan.records_per_part
        round_number = pieces[-1].round + 1 if pieces else 1
        first_part = len(self._prepared.parts) + len(self._extra_pieces)
        count = min(math.ceil(texts / lines), Isolation(pieces).remaining_operations)
        for number in range(count):
            select = f"FROM undelivered_texts ORDER BY recordId LIMIT {lines:d} OFFSET {number * lines:d}"
            uri, size, sha256 = write_input_file(engine, select, self._staging)
            yield Piece(
                len(pieces) + number, Kind.UNDELIVERED, None, 0, min(lines, texts - number * lines), round_number,
                first_part + number, input_uri=uri, bytes=size, sha256=sha256,
            )  # fmt: skip

    def _find_undelivered_texts(self, engine: Engine) -> Undelivered:
        """Create `undelivered_texts` in the engine, and return their numbers."""
        with ExitStack() as files:
            path = files.enter_context(self._open_input_file(str(self._prepared.awaited_uri)))
            sent_files = [
                files.enter_context(self._open_input_file(piece.input_uri)) for piece in self._undelivered_pieces
            ]
            undelivered = find_undelivered_texts(engine, self.plan, self._warehouse, path, sent_files)
        if undelivered.awaited > self._prepared.awaited:
            raise PlanError(
                f"{undelivered.awaited:,} texts would be sent that other runs had claimed, but `prepare` has counted"
                f" {self._prepared.awaited:,}: clear `prepare` with downstream tasks"
            )
        return undelivered

    def _measure_claims_timeout_s(self, claimants: Mapping[str, int]) -> float:
        """Return the seconds that other runs get to deliver what they had claimed: those of an operation with as many
        texts, or of the longest one of this run.

        :param claimants: these runs, each with the number of all texts that it claims
        """
        records = min(max(claimants.values(), default=self._prepared.awaited), self.plan.records_per_part)
        with self._warehouse.session(read_only=True) as session:
            expected = expect_seconds(session, self.plan, records)
        own = max((result.seconds or 0.0 for result in self._part_results), default=0.0)
        return min(max(own, expected or 0.0, MIN_CLAIMS_WAIT_S), MAX_CLAIMS_WAIT_S)

    def resume_waiting(self, deadline: float) -> None:
        """Wait again for the operations whose end is not known.

        :param deadline: until when, in seconds since the epoch
        """
        for piece in self._extra_pieces:
            if piece.state not in (None, COMPLETE, FAILED, TIMED_OUT, SUPERSEDED):
                self.update(piece, state=None, problem=None, deadline=deadline, usable=None)

    # ---- collecting ------------------------------------------------------------------------------------------------

    def _collect_parts(self, generation: str) -> RecodingState:
        """Keep the results of the parts, and return the state in which nothing has been sent again."""
        parts = self._prepared.parts
        collected, files = self._collect(list(zip(parts, self._part_results, strict=True)))
        pieces: list[Piece] = []
        problems: list[str] = []
        for entry in collected:
            part, result = entry.part, entry.result
            piece = Piece(
                len(pieces), Kind.PART, None, 0, part.records, 0, part.part, result.state, input_uri=part.input_uri,
                bytes=part.bytes, sha256=part.sha256, operation_id=result.operation_id, usable=entry.summary.usable,
            )  # fmt: skip
            if piece.has_failed and result.output_uri is None and result.operation_id:
                pieces.append(piece)
            elif entry.summary.problem:
                problems.append(f"part {part.part + 1} (operation {result.operation_id}): {entry.summary.problem}")
            elif entry.unanswered:
                unanswered_uri = files[part.part]
                pieces.append(
                    replace(piece, state=COMPLETE, unanswered=entry.unanswered, unanswered_uri=unanswered_uri)
                )
        usable = sum(entry.summary.usable for entry in collected)
        return RecodingState(generation, usable, len(problems), _shorten(problems), tuple(pieces))

    def _collect_pieces(self) -> None:
        """Keep the results of the pieces that have ended since the last call."""
        ended = [piece for piece in self._extra_pieces if piece.usable is None]
        if not ended:
            return
        plan = self.plan
        ends = [(self._describe_part(piece), _describe_end(plan, piece)) for piece in ended]
        controls = [
            CollectedPart(*end, PartSummary(), None)
            for piece, end in zip(ended, ends, strict=True)
            if not piece.has_output
        ]
        others = [end for piece, end in zip(ended, ends, strict=True) if piece.has_output]
        collected, files = self._collect(others, controls)
        summaries = {entry.part.part: entry for entry in collected}
        pieces = list(self._state.pieces)
        for piece in ended:
            entry = summaries[piece.part]
            problem = entry.summary.problem if piece.state == COMPLETE else piece.problem
            pieces[piece.number] = replace(
                piece, usable=entry.summary.usable, problem=problem, unanswered_uri=files.get(piece.part),
                unanswered=entry.unanswered if piece.part in files else 0,
            )  # fmt: skip
        self._save(replace(self._state, pieces=tuple(pieces)))

    def _collect(
        self, part_results: Sequence[tuple[Part, PartResult]], controls: Sequence[CollectedPart] = ()
    ) -> tuple[list[CollectedPart], dict[int, str]]:
        """Keep the results of operations; return them, and for each part the file of its texts without an answer.

        :param controls: further operations without results of their own
        """
        errors = self._read_errors([*(result for _, result in part_results), *(entry.result for entry in controls)])
        with self._open_engine() as engine:
            collected = self._keep_parts(engine, part_results, errors)
            log_discarded_lines(engine)
            if controls:
                with self._warehouse.session() as session, self._open_transaction(session):
                    store_operations(session, self.plan, controls, errors)
            files = {
                entry.part.part: self._write_unanswered(engine, entry.part.part)
                for entry in collected
                if entry.unanswered
            }
        return [*collected, *controls], files

    def _keep_parts(
        self, engine: Engine, part_results: Sequence[tuple[Part, PartResult]], errors: Mapping[str, str]
    ) -> list[CollectedPart]:
        """Read each part and keep its results in a transaction of its own, so that none costs those of the others."""
        collected, failures = [], []
        for part, result in part_results:
            entry = read_part(engine, self.plan, part, result, self._staging)
            collected.append(entry)
            try:
                with (
                    self._warehouse.session() as session,
                    # before the lock, because others wait for it
                    stage_results(engine, session) if entry.summary.usable else nullcontext(),
                    self._open_transaction(session),
                ):
                    if entry.summary.usable:
                        store_results(session, self.plan, str(result.operation_id), self._prepared.read_at)
                    store_operations(session, self.plan, [entry], errors)
            except WarehouseBusyError:
                raise
            except WarehouseError as error:
                log.warning("The results of part %d are not stored (%s)", result.part + 1, type(error).__name__)
                failures.append(error)
        if failures:
            raise failures[0]
        return collected

    def _read_errors(self, results: Sequence[PartResult]) -> dict[str, str]:
        """Return what the service says about operations that failed and that the tables do not have yet."""
        failed = [str(result.operation_id) for result in results if result.operation_id and result.state == FAILED]
        with self._warehouse.session(read_only=True) as session:
            unexplained = find_unexplained_operations(session, self.plan, failed)
        errors = {operation_id: self._read_error(operation_id) for operation_id in sorted(unexplained)}
        return {
            operation_id: error.replace("\0", "\ufffd")[:MAX_ERROR_CHARACTERS]
            for operation_id, error in errors.items()
            if error
        }

    def _write_unanswered(self, engine: Engine, part: int) -> str:
        select = f"SELECT recordId, occp_text, tasks_text FROM unanswered WHERE part = {part:d} ORDER BY recordId"  # noqa: S608
        return write_input_file(engine, select, self._staging)[0]

    # ---- input files of pieces -------------------------------------------------------------------------------------

    def _write_input_files(self, pieces: Sequence[Piece]) -> list[Piece]:
        ready_pieces: list[Piece] = []
        for (kind, parent), group in groupby(pieces, lambda piece: (piece.kind, piece.parent)):
            if kind is Kind.AGAIN and parent is not None:
                source = self._state.pieces[parent]
                file = {"input_uri": source.input_uri, "bytes": source.bytes, "sha256": source.sha256}
                ready_pieces += [replace(piece, **file) for piece in group]
            else:
                lines = self._read_lines(kind, parent)  # the pieces of a split follow each other
                ready_pieces += [self._write_input_file(piece, islice(lines, piece.records)) for piece in group]
        return ready_pieces

    def _write_input_file(self, piece: Piece, lines: Iterable[bytes]) -> Piece:
        """Write the lines of a piece to a file that is named by its content."""
        draft, digest, size = self._staging.scratch / f"piece-{piece.number}.jsonl", hashlib.sha256(), 0
        with draft.open("wb") as file:
            for line in lines:
                file.write(line)
                digest.update(line)
                size += len(line)
        uri = self._staging.keep(name_input_file(draft, digest.hexdigest()))
        return replace(piece, input_uri=uri, bytes=size, sha256=digest.hexdigest())

    def _read_lines(self, kind: Kind, parent: int | None) -> Iterator[bytes]:
        if kind is Kind.CONTROL:
            key, occp_text, tasks_text = self._find_control() or ("", "", "")
            line = {"recordId": key, "occp_text": occp_text, "tasks_text": tasks_text}
            yield json.dumps(line).encode() + b"\n"
        elif parent is None:
            for piece in Isolation(self._state.pieces).ungathered:
                yield from self._read_file(str(piece.unanswered_uri))
        else:
            yield from self._read_file(self._state.pieces[parent].input_uri)

    def _read_file(self, uri: str) -> Iterator[bytes]:
        with self._open_input_file(uri) as path, path.open("rb") as file:
            yield from file

    @contextmanager
    def _open_input_file(self, uri: str) -> Iterator[Path]:
        try:
            with self._staging.open_local(uri) as path:
                yield path
        except FileNotFoundError:
            raise IncompleteError(
                f"nothing was published: the input file {uri!r} does not exist any more: start another run of these"
                " dates"
            ) from None

    # ---- the end ---------------------------------------------------------------------------------------------------

    def finish(self) -> CollectSummary:
        """Set the texts aside that the service never answered or refused, and return the summary.

        :raises IncompleteError: an input file does not exist any more
        """
        isolation = Isolation(self._state.pieces)
        silent, unsent = isolation.silent, isolation.ungathered
        problems = [*self._state.problems, *self._describe_problems()]
        incomplete = self._state.incomplete + len(problems) - len(self._state.problems)
        extra = self._extra_pieces
        texts_sent = sum(part.records for part in self._prepared.parts)
        texts_sent += sum(piece.records for piece in self._undelivered_pieces)
        no_result = sum(piece.unanswered for piece in silent)
        if no_result and not self._is_acceptable(no_result, texts_sent):
            problems.append(
                f"{no_result} of {texts_sent} texts have no usable line in the outputs of two operations, too many to"
                " set aside as single bad texts (max_rejected_share)"
            )
            incomplete, no_result, silent = incomplete + 1, 0, []
        refused = isolation.refused
        unexplained = [piece for piece in isolation.unexplained if piece not in refused]
        undelivered, undelivered_uri = self._keep_undelivered_texts()
        unresolved = sum(piece.records for piece in unexplained) + sum(piece.unanswered for piece in unsent)
        if unresolved:
            problems.append(f"{unresolved} texts have no result yet: {_explain_stop(isolation)}")
        if undelivered:
            problems.append(
                f"{undelivered} texts have no result from the runs that claimed them, and this run cannot send them"
            )
        texts_sent, unresolved = texts_sent + undelivered, unresolved + undelivered
        self._set_aside(silent, refused)
        uris = [*(piece.input_uri for piece in unexplained), *(str(piece.unanswered_uri) for piece in unsent)]
        uris += [undelivered_uri] if undelivered_uri else []
        return CollectSummary(
            texts_sent, self._state.usable + sum(piece.usable or 0 for piece in extra),
            sum(result.operation_id is not None for result in self._part_results) + len(extra), len(extra), no_result,
            len(refused), unresolved, self._write_unresolved(uris), incomplete, _shorten(problems),
        )  # fmt: skip

    def _is_acceptable(self, no_result: int, texts_sent: int) -> bool:
        """Whether texts without an answer are single bad texts, and not a sign of a broken output."""
        has_answers = self._has_results or any(
            piece.kind is Kind.CONTROL and piece.state == COMPLETE for piece in self._state.pieces
        )
        limit = max(MAX_SINGLE_TEXTS, self.plan.max_rejected_share * texts_sent)
        return has_answers and no_result <= limit

    def _set_aside(self, silent: Sequence[Piece], refused: Sequence[Piece]) -> None:
        aside = [(piece.unanswered_uri, piece, "uncoded", NO_RESULT) for piece in silent]
        aside += [(piece.input_uri, piece, "rejected", REFUSED_BY_SERVICE) for piece in refused]
        if not aside:
            return
        with self._open_engine() as engine, self._warehouse.session() as session:
            for uri, piece, outcome, reason in aside:
                with (
                    self._open_input_file(str(uri)) as path,
                    stage_texts(engine, session, path),
                    self._open_transaction(session),
                ):
                    set_texts_aside(session, self.plan, str(piece.operation_id), outcome, reason)

    def _keep_undelivered_texts(self) -> tuple[int, str | None]:
        """Return the number and the file of the texts that other runs have not delivered and this run cannot send."""
        if self._prepared.awaited_uri is None or self._is_incomplete:
            return 0, None
        with self._open_engine() as engine:
            texts = self._find_undelivered_texts(engine).texts
            select = "FROM undelivered_texts ORDER BY recordId"
            return (texts, write_input_file(engine, select, self._staging)[0]) if texts else (0, None)

    def _write_unresolved(self, uris: Sequence[str]) -> str | None:
        if not uris:
            return None
        draft = self._staging.scratch / "unresolved.jsonl"
        with draft.open("wb") as file:
            for uri in uris:
                file.writelines(self._read_file(uri))
        return self._staging.keep(draft)

    def _describe_problems(self) -> list[str]:
        return [f"operation {piece.operation_id}: {piece.problem}" for piece in self._extra_pieces if piece.problem]

    # ---- state -----------------------------------------------------------------------------------------------------

    @property
    def running_pieces(self) -> list[Piece]:
        """The pieces whose operations have not ended."""
        return [piece for piece in self._state.pieces if piece.state is None]

    @property
    def _extra_pieces(self) -> list[Piece]:
        return [piece for piece in self._state.pieces if piece.is_extra]

    @property
    def _undelivered_pieces(self) -> list[Piece]:
        """The pieces of texts that other runs have not delivered and that this run has sent."""
        return [piece for piece in self._state.pieces if piece.kind is Kind.UNDELIVERED and piece.state != SUPERSEDED]

    @property
    def _is_incomplete(self) -> bool:
        """Whether an operation may still give results, or has unusable ones, so that nothing is published."""
        return self._state.incomplete > 0 or any(piece.problem for piece in self._extra_pieces)

    @property
    def _has_results(self) -> bool:
        return self._state.usable > 0 or any(piece.usable for piece in self._extra_pieces)

    @property
    def _needs_control(self) -> bool:
        """Whether no text at all has been answered, although operations were complete."""
        return not self._has_results and bool(Isolation(self._state.pieces).silent)

    def _save(self, state: RecodingState) -> None:
        self._store.set(STATE_KEY, state.to_dict())
        self._state = state

    def _find_control(self) -> tuple[str, str, str] | None:
        if not self._state.pieces:
            return None
        with self._warehouse.session(read_only=True) as session:
            return find_control_text(session, self.plan)

    def _describe_part(self, piece: Piece) -> Part:
        plan = self.plan
        return Part(
            piece.part, plan.topic, plan.model_id, False, piece.input_uri, piece.records, piece.bytes, piece.sha256
        )

    @contextmanager
    def _open_engine(self) -> Iterator[Engine]:
        with open_engine(self._staging.scratch, "collect", self.plan.engine_memory_mb) as engine:
            yield engine

    def _open_transaction(self, session: Session) -> AbstractContextManager[None]:
        """Return a transaction; all writers of results or codes take turns."""
        return session.transaction(lock=table(self.plan.schema, "coding_runs"))


def identify_operations(parts: Sequence[Part], part_results: Sequence[PartResult]) -> str:
    """Return a text that is another one as soon as a part has another operation, or its operation another end."""
    ends = [
        [part.sha256, result.operation_id, result.state, result.output_uri]
        for part, result in zip(parts, part_results, strict=True)
    ]
    return hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:16]


def _carry_over(old: RecodingState, new: RecodingState) -> RecodingState:
    """Return the new state, with the pieces of the old one that belong to the operations of the new one.

    The others stay in the list, because they were sent, but have no consequences. Neither has a control that failed
    before, nor a piece of undelivered texts that failed or was not sent: what is still missing is found again.
    """

    def identify(piece: Piece) -> tuple[Any, ...]:
        return piece.part, piece.sha256, piece.operation_id, piece.state

    old_identities = {identify(piece) for piece in old.pieces if not piece.is_extra}
    new_identities = {identify(piece) for piece in new.pieces}
    pieces: list[Piece] = []
    for piece in old.pieces:
        if piece.parent is not None:
            is_superseded = pieces[piece.parent].state == SUPERSEDED
        elif piece.kind in (Kind.CONTROL, Kind.UNDELIVERED):
            is_superseded = piece.has_failed or piece.operation_id is None
        else:
            is_superseded = not piece.is_extra and identify(piece) not in new_identities
        without_consequences = replace(piece, state=SUPERSEDED, problem=None, usable=0, unanswered=0)
        pieces.append(without_consequences if is_superseded else piece)
    last_round = pieces[-1].round if pieces else 0
    for piece in new.pieces:
        if identify(piece) not in old_identities:
            pieces.append(replace(piece, number=len(pieces), round=last_round))
    return replace(new, pieces=tuple(pieces))


def _describe_end(plan: Plan, piece: Piece) -> PartResult:
    messages = {FAILED: "the service failed it", TIMED_OUT: "the service timed it out"}
    fingerprint = Fingerprint(plan.topic, plan.model_id, piece.sha256)
    return PartResult(
        piece.part, piece.operation_id, str(piece.state), messages.get(str(piece.state), piece.problem),
        piece.output_uri, piece.metadata_uri, piece.input_uri, fingerprint,
    )  # fmt: skip


def _explain_stop(isolation: Isolation) -> str:
    """Return why texts that made operations fail were not isolated."""
    if isolation.is_service_failing:
        return "the service also failed a text that this model has coded before, so it may be failing everything"
    if not isolation.has_success:
        return (
            "their operations failed, and no other operation was complete, so the service may be failing everything"
        )
    if isolation.remaining_operations <= PIECES_PER_SPLIT:
        return f"the {MAX_EXTRA_OPERATIONS} extra operations of a run do not suffice to isolate the texts at fault"
    return "their operations did not end as expected, and nothing shows that the texts are at fault"


def _shorten(problems: Sequence[str]) -> tuple[str, ...]:
    more = len(problems) - MAX_LISTED_PROBLEMS
    return (*problems[:MAX_LISTED_PROBLEMS], *([f"and {more} more problems"] if more > 0 else []))
