"""Input files are read once: hashed, counted, and checked before an operation is paid for."""

import hashlib
import json

import pytest

from coding_service import input_file
from coding_service.errors import InputFileError
from coding_service.input_file import InputSummary, check_size, find_problem, read_input_file

RECORD = {"recordId": "r1", "occp_text": "baker", "tasks_text": "bakes"}


def encode(**changes):
    """Return a good line with changes; None removes a field."""
    return json.dumps({name: value for name, value in {**RECORD, **changes}.items() if value is not None}).encode()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "in.jsonl"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_file_is_hashed_and_its_records_are_counted(path, end):
    content = encode() + b"\n" + encode(tasks_text="") + end
    path.write_bytes(content)
    assert read_input_file(path) == InputSummary(len(content), hashlib.sha256(content).hexdigest(), 2)


def test_lines_that_lie_in_two_blocks_are_whole(path, monkeypatch):
    content = b"".join(encode(recordId=f"r{number}") + b"\n" for number in range(50))
    path.write_bytes(content)
    for block_bytes in (1, 7, 64):
        monkeypatch.setattr(input_file, "BLOCK_BYTES", block_bytes)
        assert read_input_file(path) == InputSummary(len(content), hashlib.sha256(content).hexdigest(), 50)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (encode(recordId=None), "has no recordId"),
        (encode(recordId=""), "has no recordId"),
        (encode(recordId=7), "has a value of recordId that is not a text"),
        (encode(occp_text=None), "has no occp_text"),
        (encode(tasks_text=None), "has no tasks_text"),
        (encode(occp_text=["SECRET"]), "has a value of occp_text that is not a text"),
        (
            encode(occp_text="SECRET caf\u00e9"),
            "has a value of occp_text with a character that is not printable ASCII",
        ),
        (
            encode(tasks_text="SECRET\nbakes"),
            "has a value of tasks_text with a character that is not printable ASCII",
        ),
        (encode(SECRET="x"), "has another field"),
        (encode(occp_text=" ", tasks_text=""), "is blank in occp_text and tasks_text"),
        (
            encode(occp_text="x" * 150, tasks_text="y" * 151),
            "has more than 300 characters in occp_text and tasks_text",
        ),
        (b"[1]", "is not a JSON object"),
        (b"SECRET", "is not JSON"),
        (b'{"recordId": "SECRET', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (json.dumps(RECORD).encode("utf-16"), "is not JSON"),
        (b"[" * 60_000, "is not JSON"),
        (b"", "is blank"),
        (b" \r", "is blank"),
        (b"\xef\xbb\xbf" + encode(), "begins with a byte order mark"),
        (b" " * 65_537, "has more than 65536 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_line_that_the_service_cannot_be_sent_is_refused_without_its_text(path, line, problem):
    path.write_bytes(encode() + b"\n" + line + b"\n" + encode() + b"\n")
    with pytest.raises(InputFileError) as caught:
        read_input_file(path)
    message = str(caught.value)
    assert f"the input file {path} cannot be sent: line 2 {problem}. Each line has to be a JSON object" in message
    assert "SECRET" not in message


def test_a_line_with_300_characters_is_accepted():
    assert find_problem(encode(occp_text="x" * 150, tasks_text="y" * 150)) is None


def test_the_problems_of_many_lines_are_counted_by_kind_and_the_first_of_each_is_named(path):
    lines = [encode(), encode(recordId=None), b"x", encode(recordId=None), encode(recordId="")]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputFileError, match=r"line 2 has no recordId \(3 such lines\); line 3 is not JSON\. Each"):
        read_input_file(path)


def test_a_line_without_an_end_is_refused_without_being_held_in_memory(path, monkeypatch):
    monkeypatch.setattr(input_file, "BLOCK_BYTES", 1 << 10)
    lengths = []
    find = find_problem
    monkeypatch.setattr(input_file, "find_problem", lambda line: lengths.append(len(line)) or find(line))
    path.write_bytes(b"x" * 1_000_000)
    with pytest.raises(InputFileError, match="line 1 has more than 65536 bytes"):
        read_input_file(path)
    assert max(lengths) < 70_000


def test_a_missing_file_an_empty_file_and_a_folder_are_refused(path, tmp_path):
    with pytest.raises(InputFileError, match=r"in\.jsonl does not exist; prepare it again"):
        read_input_file(path)
    with pytest.raises(InputFileError, match="is not a file"):
        read_input_file(tmp_path)
    path.touch()
    with pytest.raises(InputFileError, match="has 0 bytes; the service accepts 1 to 5000000000"):
        check_size(path)
