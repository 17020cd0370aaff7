"""What must hold after every case, whatever failed in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What stands in every text of a case, and in no name of ours.
MARK = "MARKED"


@dataclass(frozen=True)
class Evidence:
    """What is known after a case.

    :param record_ids: the records of the source.
    :param published: one (record id, outcome) for each published record of the case.
    :param counts: (records, coded, uncoded, rejected) of each run that is recorded in the warehouse.
    :param keys: the key of each row of `coded_texts`.
    :param inputs: the record ids in each input file that the storage accepted.
    :param places: (name, content) of each place that must contain neither a secret nor a text.
    :param secrets: tokens, signatures and passwords that were used.
    :param remains: files, folders and open descriptors that should be gone.
    """

    record_ids: Sequence[str]
    published: Sequence[tuple[str, str]]
    counts: Sequence[tuple[int, int, int, int]]
    keys: Sequence[tuple[str, ...]]
    inputs: Sequence[Sequence[str]]
    places: Iterable[tuple[str, bytes]]
    secrets: frozenset[bytes]
    remains: Sequence[str]


def find_violations(evidence: Evidence, max_sends: int = 1) -> list[str]:
    """Return one sentence for each invariant that does not hold.

    :param max_sends: how often a text may have been sent. More than once is right only if the service itself failed
        work that it had accepted.
    """
    return [
        *_find_lost_records(evidence),
        *_find_repeated_keys(evidence),
        *_find_repeated_sends(evidence, max_sends),
        *_find_leaks(evidence),
        *(f"left over: {name}" for name in evidence.remains),
    ]


def _find_lost_records(evidence: Evidence) -> Iterator[str]:
    published = Counter(record_id for record_id, _ in evidence.published)
    if lost := sorted(set(evidence.record_ids) - set(published)):
        yield f"{len(lost)} records lost, such as {lost[0]!r}"
    if strange := sorted(set(published) - set(evidence.record_ids)):
        yield f"{len(strange)} published records are not in the source, such as {strange[0]!r}"
    for records, coded, uncoded, rejected in evidence.counts:
        if records != coded + uncoded + rejected:
            yield f"{records} records read, but {coded} coded + {uncoded} uncoded + {rejected} rejected"


def _find_repeated_keys(evidence: Evidence) -> Iterator[str]:
    published = Counter(record_id for record_id, _ in evidence.published)
    for name, keys in (("coded_records", published), ("coded_texts", Counter(evidence.keys))):
        if repeated := sum(count > 1 for count in keys.values()):
            yield f"{repeated} keys stand more than once in {name}"


def _find_repeated_sends(evidence: Evidence, max_sends: int) -> Iterator[str]:
    sends = Counter(record_id for ids in evidence.inputs for record_id in ids)
    if repeated := [record_id for record_id, count in sends.items() if count > max_sends]:
        yield f"{len(repeated)} texts were sent more than {max_sends} times, at most {max(sends.values())} times"


def _find_leaks(evidence: Evidence) -> Iterator[str]:
    for name, content in evidence.places:
        if any(secret in content for secret in evidence.secrets):
            yield f"a secret stands in {name}"
        if MARK.encode() in content:
            yield f"a text stands in {name}"


def list_files(folder: Path) -> list[str]:
    """Return all files below a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
