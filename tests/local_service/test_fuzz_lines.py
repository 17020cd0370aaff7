"""Fuzzes input files: every operation ends, and a bad line is reported with its number and its problem."""

import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.local_service.conftest import read_lines

BOUNDED = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = ("recordId", "occp_text", "tasks_text")
PRINTABLE = "".join(map(chr, range(32, 127)))

texts = st.text(PRINTABLE, min_size=1, max_size=150).filter(str.strip)
good = st.builds(lambda occp, tasks: {"occp_text": occp, "tasks_text": tasks}, texts, st.just("") | texts)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
likely = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), values | texts, max_size=4)


def encode(record, ascii_only=True):
    return json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


raw = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    values.map(encode),
    likely.map(encode),
    likely.map(lambda record: encode(record, ascii_only=False)),
    st.builds(lambda record, cut: encode(record)[:-cut], good, st.integers(1, 20)),
).filter(lambda line: b"\n" not in line)


def is_good(line):
    """Return whether a line is a record without an id, independently of the service (docs/service-contract.md 3.3, 6)."""
    try:
        record = json.loads(line.decode())
    except ValueError:
        return False
    if not isinstance(record, dict) or set(record) != {"occp_text", "tasks_text"}:
        return False
    both = list(record.values())
    if not all(isinstance(text, str) and set(text) <= set(PRINTABLE) for text in both):
        return False
    return len("".join(both)) <= 300 and any(text.strip() for text in both)


@pytest.fixture
def run_operation(caller):
    """A function that uploads a file and returns the last status of its operation."""

    def run(body):
        operation_id = caller.submit(body)
        caller.wait_until(lambda: caller.status(operation_id)["operationStatus"] in ("complete", "failed"))
        return caller.status(operation_id)

    return run


@BOUNDED
@given(records=st.lists(good, min_size=1, max_size=30), ids=st.booleans(), last=st.sampled_from(["\n", "\r\n", ""]))
def test_every_good_line_has_one_line_of_output(caller, run_operation, records, ids, last):
    sent = [{"recordId": str(number % 7), **record} if ids else record for number, record in enumerate(records)]
    status = run_operation(b"\n".join(map(encode, sent)) + last.encode())
    assert status["operationStatus"] == "complete"
    assert [line["input"] for line in read_lines(caller.session.get(status["responseDownloadUrl"]).text)] == sent


@BOUNDED
@given(
    before=st.lists(good, max_size=5),
    line=raw.filter(lambda line: not is_good(line)),
    after=st.lists(good, max_size=3),
)
@example(before=[], line=b'{"occp_text": "x", "occp_text": 3, "tasks_text": ""}', after=[])
@example(before=[], line=b"\xef\xbb\xbf" + encode({"occp_text": "x", "tasks_text": ""}), after=[])
@example(before=[], line=b"[" * 50_000, after=[])
@example(before=[], line=b'{"occp_text": "x", "tasks_text": NaN}', after=[])
@example(before=[], line=b"9" * 5000, after=[])
@example(before=[], line=b'{"occp_text": "\\ud800", "tasks_text": ""}', after=[])
def test_a_bad_line_is_reported_with_its_number_and_its_problem(caller, run_operation, before, line, after):
    body = b"".join(encoded + b"\n" for encoded in [*map(encode, before), line, *map(encode, after)])
    status = run_operation(body)
    assert status["operationStatus"] == "failed"
    match = re.fullmatch(r"Malformed record found in input file: line (\d+): (.+)", status["error"])
    assert match, status
    assert int(match[1]) == len(before) + 1


@BOUNDED
@given(lines=st.lists(raw | good.map(encode), min_size=1, max_size=6))
@example(lines=[b'{"occp_text": 3, "occp_text": "the last counts", "tasks_text": ""}'])
@example(lines=[b' {"occp_text": "\\u0062aker", "tasks_text": "a\\/b \\"c\\""}\t\r'])
@example(lines=[b'{"occp_text": "\x7f", "tasks_text": ""}'])
def test_the_operation_ends_for_any_input(caller, run_operation, lines):
    status = run_operation(b"\n".join(lines) or b"\n")
    assert status["operationStatus"] == ("complete" if all(map(is_good, _without_last_end(lines))) else "failed")
    assert not [entry for entry in caller.journal() if entry["status"] and entry["status"] >= 500]


def _without_last_end(lines):
    # An empty last line is only the line end of the previous one
    return lines[:-1] if len(lines) > 1 and not lines[-1] else lines
