"""Output files: every documented variant is read, and every malformed line is discarded and named by its number."""

import json
import random

import duckdb
import pytest

from include.coding import texts
from include.coding.engine import open_engine
from include.coding.results import PartSummary, read_model_id, read_results
from tests.coding.conftest import CHEF, make_key

PAIRS = [("chef", "cooks"), ("driver", ""), ("", 'says "hello" \\ & goes'), ("baker", "bakes")]
INPUTS = [{"recordId": make_key(*pair), "occp_text": pair[0], "tasks_text": pair[1]} for pair in PAIRS]
MISSING = object()
SUGGESTIONS = [{**CHEF, "codeCategory": code} for code in ("351311", "3513", "3")]


def line(number=0, **changes):
    """Return the output line of one of the inputs."""
    echo = INPUTS[number]
    members = {"recordId": echo["recordId"], "codeStatus": "successful", "input": echo, "result": CHEF, **changes}
    return json.dumps({name: value for name, value in members.items() if value is not MISSING}) + "\n"


@pytest.fixture
def read(tmp_path):
    """A function that reads an output file, and returns its summary, its results and the discarded lines."""
    input_file, output_file = tmp_path / "part.jsonl", tmp_path / "output.jsonl"
    input_file.write_text("".join(json.dumps(text) + "\n" for text in INPUTS))
    with duckdb.connect() as engine:
        texts.install_text_key(engine)

        def read_output(data):
            output_file.write_bytes(data if isinstance(data, bytes) else data.encode())
            summary = read_results(engine, 3, input_file, output_file)
            results = engine.sql("SELECT * FROM results").to_arrow_table().to_pylist()
            return summary, {row["text_key"]: row for row in results}, read_discarded_lines(engine)

        yield read_output


def read_discarded_lines(engine):
    return engine.execute("SELECT line, problem FROM discarded_lines ORDER BY line").fetchall()


def test_a_coded_line_gives_a_result_with_all_its_columns(read):
    summary, results, discarded = read(line())
    assert (summary, discarded) == (PartSummary(usable=1), [])
    assert results[make_key("chef", "cooks")] == {
        **{
            "text_key": make_key("chef", "cooks"),
            "occp_text": "chef",
            "tasks_text": "cooks",
            "outcome": "coded",
            "code": "351311",
            "label": "Chef",
        },
        **{"confidence": 0.92, "level": 6, "suggestions": None},
    }


@pytest.mark.parametrize("number", range(len(PAIRS)))
@pytest.mark.parametrize("record_id", [None, "", MISSING], ids=["null", "empty", "missing"])
def test_a_line_without_a_record_id_is_matched_by_its_echo(read, record_id, number):
    _, results, discarded = read(line(number, recordId=record_id))
    assert (list(results), discarded) == ([INPUTS[number]["recordId"]], [])


@pytest.mark.parametrize("echo", [None, MISSING, {}], ids=["null", "missing", "empty"])
def test_a_line_without_an_echo_is_matched_by_its_record_id(read, echo):
    assert read(line(input=echo))[0] == PartSummary(usable=1)


@pytest.mark.parametrize(
    "echo",
    [
        {"occp_text": "CHEF", "tasks_text": " cooks "},
        {"occp_text": "'chef'", "tasks_text": "cooks", "language": "en"},
        {"occp_text": "chef (commercial)", "tasks_text": "cooks"},
        {"occp_text": "chef", "tasks_text": ""},
        {"occpText": "chef", "tasksText": "cooks"},
        "chef cooks",
    ],
)
def test_a_line_with_our_record_id_is_used_although_its_echo_differs(read, echo):
    summary, results, _ = read(line(input=echo))
    assert summary == PartSummary(usable=1)
    assert (results[make_key("chef", "cooks")]["occp_text"], len(results)) == ("chef", 1)


def test_different_echoes_are_counted_in_one_warning_without_a_text(read, caplog):
    read(
        line(0, input={"occp_text": "CHEF", "tasks_text": "cooks"}) + line(1, input={"occp_text": "Driver"}) + line(3)
    )
    [message] = caplog.messages
    assert "Part 4: 2 of 3 output lines return an input that differs" in message
    assert "chef" not in message.lower()


@pytest.mark.parametrize(
    "status",
    ["successful", None, MISSING, "", " SUCCESSFUL "],
    ids=["successful", "null", "missing", "empty", "spelled differently"],
)
@pytest.mark.parametrize("result", [CHEF, [CHEF]], ids=["object", "list of one"])
def test_a_result_with_a_code_is_coded(read, status, result):
    (row,) = read(line(codeStatus=status, result=result))[1].values()
    assert (row["outcome"], row["code"], row["label"], row["confidence"]) == ("coded", "351311", "Chef", 0.92)


@pytest.mark.parametrize("status", ["unsuccessful", None, MISSING], ids=["unsuccessful", "null", "missing"])
@pytest.mark.parametrize(
    "result", [None, MISSING, {}, [], [{}], [None]], ids=["null", "missing", "{}", "[]", "[{}]", "[null]"]
)
def test_an_empty_result_is_uncoded(read, status, result):
    summary, results, _ = read(line(codeStatus=status, result=result))
    (row,) = results.values()
    assert summary == PartSummary(usable=1)
    assert (row["outcome"], row["code"], row["level"], row["confidence"]) == ("uncoded", None, None, None)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("status", ["unsuccessful", MISSING], ids=["unsuccessful", "missing"])
def test_suggestions_are_stored_and_never_become_a_code(read, status, count):
    (row,) = read(line(codeStatus=status, result=None, suggestions=SUGGESTIONS[:count]))[1].values()
    assert (row["outcome"], row["code"], row["label"]) == ("uncoded", None, None)
    assert json.loads(row["suggestions"]) == SUGGESTIONS[:count]


@pytest.mark.parametrize("suggestions", [None, MISSING, []], ids=["null", "missing", "empty"])
def test_suggestions_are_optional(read, suggestions):
    (row,) = read(line(suggestions=suggestions))[1].values()
    assert row["suggestions"] is None


@pytest.mark.parametrize(
    ("value", "confidence"),
    [(0.92, 0.92), ("0.92", 0.92), (1, 1.0), ("92", 92.0), (None, None), (MISSING, None)],
)
def test_a_confidence_is_stored_as_the_service_gives_it(read, value, confidence):
    result = {name: item for name, item in {**CHEF, "codeConfidence": value}.items() if item is not MISSING}
    (row,) = read(line(result=result))[1].values()
    assert row["confidence"] == confidence


@pytest.mark.parametrize(
    ("code", "level"),
    [
        *[("3", 1), ("35", 2), ("351", 3), ("3513", 4), ("35131", 5), ("351311", 6), ("035131", 6)],
        *[("3513111", None), ("35131A", None), ("A", None), ("3.5", None), ("-35", None), ("３５", None)],
    ],
)
def test_a_code_stays_text_and_has_a_level_if_it_is_one_to_six_digits(read, code, level):
    (row,) = read(line(result={**CHEF, "codeCategory": code}))[1].values()
    assert (row["code"], row["level"], row["outcome"]) == (code, level, "coded")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: "".join(lines),
        lambda lines: "".join(reversed(lines)),
        lambda lines: "".join(lines).replace("\n", "\r\n"),
        lambda lines: lines[0].replace("\n", "\r\n") + "".join(lines[1:]),
        lambda lines: "".join(lines[:-1]) + lines[-1].replace("\n", "\r\n"),
        lambda lines: "\ufeff" + "".join(lines),
        lambda lines: "\ufeff" + "".join(lines).replace("\n", "\r\n"),
        lambda lines: "".join(lines)[:-1],
        lambda lines: "".join(lines).replace("\n", "\r\n")[:-2],
        lambda lines: "\n\n" + "\n  \n".join(lines) + "\n\n",
        lambda lines: "\r\n".join(["", *lines, ""]),
        lambda lines: "".join(f" {text[:-1]}\t\n" for text in lines),
    ],
    ids=[
        *["plain", "backwards", "CRLF", "CRLF first", "CRLF last", "BOM", "BOM and CRLF", "no final newline"],
        *["no final CRLF", "blank lines", "blank lines of CRLF", "white space"],
    ],
)
def test_the_form_of_the_file_does_not_matter(read, change):
    lines = [line(number) for number in range(len(PAIRS))]
    assert read(change(lines))[0] == PartSummary(usable=len(PAIRS))


def test_letters_outside_ascii_are_not_changed(read):
    label = 'Café “Chef”, 厨师 👍 \\ "'
    escaped = line(result={**CHEF, "codeLabel": label})
    for text in (escaped, json.dumps(json.loads(escaped), ensure_ascii=False) + "\n"):
        (row,) = read(text)[1].values()
        assert row["label"] == label


def test_unknown_members_are_ignored(read):
    assert read(line(newMember={"a": [1]}, result={**CHEF, "more": 1}))[0] == PartSummary(usable=1)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("oops\n", "it is not a JSON object"),
        ("null\n", "it is not a JSON object"),
        ("7\n", "it is not a JSON object"),
        (f"[{line(1).strip()}]\n", "it is not a JSON object"),
        (line(1).strip() + line(2), "it is not a JSON object"),
        ("a\x01b\n", "it is not a JSON object"),
        ("a\x00b\n", "it is not a JSON object"),
        ("a\rb\n", "it is not a JSON object"),
        ("[" * 60_000 + "\n", "it is not a JSON object"),
        ("[" * 100_000 + "\n", "it is above 65536 bytes"),
        ('{"recordId": "a", ' + line(1)[1:], "one of its names stands twice"),
        (line(1).replace('"result": {', '"result": {"codeCategory": "7", '), "one of its names stands twice"),
        (line(1).replace('"input": {', '"input": {"occp_text": "x", '), "one of its names stands twice"),
        (line(1, result={**CHEF, "codeCategory": "3\n5"}), "its codeCategory has a control character"),
        (line(1, result={**CHEF, "codeCategory": "3" * 101}), "its codeCategory is above 100 characters"),
        (
            line(1, result={**CHEF, "codeConfidence": 7}).replace(": 7}", ": 1e999}"),
            "its codeConfidence is not a number",
        ),
        (line(1, recordId={"a": "b"}), "its recordId was not sent"),
        ("{}\n", "it has neither recordId nor input"),
        (line(1, recordId=None, input=None), "it has neither recordId nor input"),
        (line(1, recordId=None, input={"occp_text": "driver"}), "it has neither recordId nor input"),
        (line(1, recordId="0" * 32), "its recordId was not sent"),
        (line(1, recordId=7), "its recordId was not sent"),
        (line(1, recordId=None, input={"occp_text": "x", "tasks_text": ""}), "its recordId was not sent"),
        (line(1, input=INPUTS[2]), "its input is that of another text"),
        (line(1, result="351311"), "its result is a JSON VARCHAR"),
        (line(1, result=351311), "its result is a JSON UBIGINT"),
        (line(1, result=[CHEF, CHEF]), "its result is a list of several"),
        (line(1, result=["351311"], codeStatus=None), "its result is a list of a JSON VARCHAR"),
        (line(1, result={"codeLabel": "Chef"}), "its result has no codeCategory"),
        (line(1, result={**CHEF, "codeCategory": None}, codeStatus=None), "its result has no codeCategory"),
        (line(1, result={**CHEF, "codeCategory": ""}, codeStatus=None), "its result has no codeCategory"),
        (line(1, result=[{"codeLabel": "Chef"}], codeStatus=None), "its result has no codeCategory"),
        (line(1, result={**CHEF, "codeCategory": ["3"]}), "its codeCategory is a JSON ARRAY"),
        (line(1, codeStatus="in_progress"), "its codeStatus is unknown"),
        (line(1, codeStatus=" Unsuccessful"), "its codeStatus is unsuccessful but it has a code"),
        (line(1, result=None), "its codeStatus is successful but it has no code"),
        (line(1, codeStatus="unsuccessful"), "its codeStatus is unsuccessful but it has a code"),
        (line(1, result={**CHEF, "codeConfidence": "high"}), "its codeConfidence is not a number"),
        (line(1, result={**CHEF, "codeConfidence": True}), "its codeConfidence is not a number"),
        (line(1, result={**CHEF, "codeConfidence": float("nan")}), "its codeConfidence is not a number"),
        (line(1, result={**CHEF, "codeConfidence": "Infinity"}), "its codeConfidence is not a number"),
        (line(1, suggestions={"a": 1}), "its suggestions are not a list"),
        (line(1, suggestions="none"), "its suggestions are not a list"),
    ],
)
def test_a_malformed_line_is_discarded_with_its_number_and_the_others_are_read(read, bad, problem):
    summary, results, discarded = read(line(0) + "\n" + bad + line(3))
    assert (summary, discarded) == (PartSummary(usable=2, discarded=1), [(3, problem)])
    assert list(results) == [INPUTS[0]["recordId"], INPUTS[3]["recordId"]]


@pytest.mark.parametrize("bad", [b"\xff\xfe oops\n", line(1).encode().replace(b"Chef", b"Ch\xe9f"), b"\x80\r\n"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_line_that_is_not_utf8_is_discarded_with_its_number(read, tmp_path, bad, line_end):
    data = b"\xef\xbb\xbf" + line(0).encode().replace(b"\n", line_end) + bad + line(3).encode()
    summary, _, discarded = read(data)
    assert (summary, discarded) == (PartSummary(usable=2, discarded=1), [(2, "it is not a JSON object")])
    assert {path.name for path in tmp_path.iterdir()} == {"part.jsonl", "output.jsonl"}


def test_a_truncated_last_line_is_discarded(read):
    summary, _, discarded = read((line(0) + line(1))[:-40])
    assert (summary, discarded) == (PartSummary(usable=1, discarded=1), [(2, "it is not a JSON object")])


def test_a_repeated_line_is_read_once(read):
    summary, results, discarded = read(line(0) + line(1) + line(0, codeStatus=None) + line(0, input=None))
    assert (summary.usable, len(results)) == (2, 2)
    assert discarded == [(3, "it repeats line 1"), (4, "it repeats line 1")]


@pytest.mark.parametrize(
    "other",
    [
        {"result": {**CHEF, "codeCategory": "3"}},
        {"result": {**CHEF, "codeLabel": "Cook"}},
        {"result": {**CHEF, "codeConfidence": 0.5}},
        {"result": None, "codeStatus": "unsuccessful"},
    ],
)
def test_lines_of_one_text_that_disagree_are_all_discarded(read, other):
    summary, results, discarded = read(line(0) + line(1) + line(0, **other))
    problem = "its recordId is on several lines that disagree, the first is line 1"
    assert (summary, discarded) == (PartSummary(usable=1, discarded=2), [(1, problem), (3, problem)])
    assert list(results) == [INPUTS[1]["recordId"]]


def test_a_file_of_garbage_gives_no_result(read):
    summary, results, discarded = read(random.Random(1).randbytes(50_000))
    assert (summary.usable, results) == (0, {})
    assert {problem for _, problem in discarded} == {"it is not a JSON object"}


@pytest.mark.parametrize("data", ["", "\n", "\ufeff", "\r\n\r\n"])
def test_an_empty_file_gives_no_result(read, data):
    assert read(data) == (PartSummary(), {}, [])


def test_lines_keep_their_numbers_in_a_large_file(read):
    filler = "x" * 120 + "\n"
    summary, _, discarded = read(line(0) + filler * 200_000 + line(1) + "the last\n")
    assert summary == PartSummary(usable=2, discarded=200_001)
    assert [number for number, _ in discarded] == [*range(2, 200_002), 200_003]


@pytest.mark.parametrize(
    ("metadata", "model"),
    [
        ('{"modelId": "m-1", "modelVersion": 2}', "m-1"),
        ('{"ModelID": "m-1"}', "m-1"),
        ('{"model_id": "m-1"}', "m-1"),
        *[
            (f'{{"modelId": "{form}"}}', "0b5bd72e-5a3c-4bb0-8a52-2c5a8f6d9a01")
            for form in (
                "urn:uuid:0b5bd72e-5a3c-4bb0-8a52-2c5a8f6d9a01",
                "{0B5BD72E-5A3C-4BB0-8A52-2C5A8F6D9A01}",
                "0b5bd72e5a3c4bb08a522c5a8f6d9a01",
            )
        ],
        ('{"modelId": 7}', None),
        ('{"model": "m-1"}', None),
        ('["m-1"]', None),
        ("null", None),
        ("", None),
        ("modelId: m-1", None),
        ("[" * 100_000, None),
    ],
)
def test_the_model_in_a_metadata_file_is_read_if_there_is_one(metadata, model):
    assert read_model_id(metadata) == model


@pytest.mark.parametrize("size", [70_000, 1_900_000, 100_000_000])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_above_the_limit_costs_no_other_line_and_no_memory(tmp_path, size, place):
    lines = [line(0), line(1)]
    lines.insert(place, line(2, more="x" * size))
    (tmp_path / "out.jsonl").write_text("".join(lines))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(text) + "\n" for text in INPUTS))
    with open_engine(tmp_path, "test", 64) as engine:  # it can use the files of its own folder only
        assert read_results(engine, 3, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == PartSummary(2, 1)
        assert read_discarded_lines(engine) == [(place + 1, "it is above 65536 bytes")]


def test_a_line_just_below_the_limit_is_read(read):
    text = line(0, more="")
    padded = line(0, more="x" * (65_536 - len(text.encode()) + 1))
    assert len(padded.encode()) == 65_537  # with its end
    assert read(padded + line(1))[0] == PartSummary(usable=2)
    assert read(padded.replace("x", "xx", 1) + line(1))[0] == PartSummary(usable=1, discarded=1)


@pytest.mark.parametrize("deep", ["[" * 20_000 + "]" * 20_000, '{"a":' * 8_000 + "1" + "}" * 8_000])
@pytest.mark.parametrize("member", ["more", "suggestions", "codeLabel"])
def test_deep_members_are_read_or_discarded_alone(read, deep, member):
    bad = line(1, more=7) if member != "codeLabel" else line(1, result={**CHEF, "codeLabel": 7})
    bad = (
        bad.replace(": 7", ": " + deep) if member != "suggestions" else line(1)[:-2] + f', "suggestions": {deep}}}\n'
    )
    summary, results, _ = read(line(0) + bad + line(2))
    assert summary.usable + summary.discarded == 3
    assert {INPUTS[0]["recordId"], INPUTS[2]["recordId"]} <= set(results)


def test_labels_are_bounded_and_counted_in_one_warning(read, caplog):
    labels = ["<script>alert(1)</script>", "a\x00b\nc", "x" * 20_000]
    _, results, _ = read(
        "".join(line(number, result={**CHEF, "codeLabel": text}) for number, text in enumerate(labels))
    )
    assert [results[INPUTS[number]["recordId"]]["label"] for number in range(3)] == [
        "<script>alert(1)</script>", "a\ufffdb\ufffdc", "x" * 1000,
    ]  # fmt: skip
    assert "Part 4: 2 of 3 output lines have a label above 1000 characters or with control characters" in caplog.text


def test_codes_that_are_not_digits_are_counted_in_one_warning(read, caplog):
    read(line(0, result={**CHEF, "codeCategory": "abc"}) + line(1))
    assert "Part 4: 1 of 2 output lines have a code that is not one to six digits" in caplog.messages
