"""From the lines of an output file to results: every documented variant is accepted, other lines are discarded."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import duckdb

from include.coding.engine import Engine, execute_within_memory
from include.coding.files import escape_glob, find_long_line
from include.coding.handoff import Handoff, InputFile, PartNumber, PlainId, RunFile, Seconds, Text, Word
from include.coding.parts import Fingerprint

#: Longest output line that is used. Texts, label and suggestions of a real one have a few hundred characters each.
MAX_LINE_BYTES = 64 << 10
#: What replaces a longer line, and one that is not text, in a copy of the file.
_LONG_LINE, _NO_TEXT = b"\x02", b"?"
#: Longest code that is used, and longest label that is stored.
MAX_CODE_CHARACTERS, MAX_LABEL_CHARACTERS = 100, 1_000
#: Longest name of a model in a message.
MAX_MODEL_CHARACTERS = 100

log = logging.getLogger(__name__)

#: The tables of all parts.
TABLES = """
CREATE TABLE IF NOT EXISTS discarded_lines (part INTEGER, line BIGINT, problem VARCHAR);
CREATE TABLE IF NOT EXISTS unanswered (part INTEGER, recordId VARCHAR, occp_text VARCHAR, tasks_text VARCHAR);
"""

#: Members of an output line (docs/service-contract.md 3.4). `result` and `suggestions` stay JSON, because they come
#: in several forms.
_LINE_TYPE = json.dumps(
    {
        "recordId": "VARCHAR",
        "codeStatus": "VARCHAR",
        "input": {"occp_text": "VARCHAR", "tasks_text": "VARCHAR"},
        "result": "JSON",
        "suggestions": "JSON",
    }
)

#: The lines of an output file, whose path is the parameter `output`.
_OUTPUT_LINES = f"""read_csv($output, header = false, auto_detect = false, columns = {{'text': 'VARCHAR'}},
    delim = chr(1), quote = '', escape = '', max_line_size = {MAX_LINE_BYTES}, buffer_size = {64 * MAX_LINE_BYTES})"""

#: SQL of the number of a line. Lines without numbers are parsed by several threads.
_NO_LINE_NUMBER, _LINE_NUMBER = "CAST(NULL AS BIGINT)", "row_number() OVER ()"

#: The fields of `numbered_lines`, and the first problem of each. A contradiction is never resolved by guessing
#: (docs/service-contract.md 8.23, 8.24).
_PARSE_LINES = f"""
checked_lines AS (
    SELECT line, text, has_repeated_name(text) AS is_ambiguous
    FROM numbered_lines WHERE NOT regexp_full_match(text, '[ \r]*')
), parsed_lines AS (
    SELECT line, text = chr(2) AS is_long, is_ambiguous,
        CASE WHEN NOT is_ambiguous THEN from_json(text, '{_LINE_TYPE}') END AS member
    FROM checked_lines
), fields AS (
    SELECT line, is_long, is_ambiguous, is_ambiguous IS NOT NULL AS is_object,
        coalesce(nullif(member.recordId, ''), text_key(member.input.occp_text, member.input.tasks_text)) AS text_key,
        nullif(lower(trim(member.codeStatus)), '') AS status, member.input AS echo, member.suggestions AS suggestions,
        member.result AS raw_result, coalesce(json_type(member.result), 'NULL') AS kind,
        CASE json_type(member.result) WHEN 'OBJECT' THEN member.result WHEN 'ARRAY' THEN member.result -> 0 END
            AS result,
        json_type(result -> 'codeCategory') AS code_kind, nullif(result ->> 'codeCategory', '') AS code,
        left(regexp_replace(result ->> 'codeLabel', '[\x00-\x1f\x7f-\x9f]', '\ufffd', 'g'), {MAX_LABEL_CHARACTERS})
            AS label,
        label <> result ->> 'codeLabel' AS is_label_changed, result ->> 'codeConfidence' AS confidence_text,
        try_cast(confidence_text AS DOUBLE) AS confidence
    FROM parsed_lines
)
SELECT line, text_key, echo, code, label, is_label_changed, confidence_text, confidence, suggestions, CASE
    WHEN is_long THEN 'it is above {MAX_LINE_BYTES} bytes'
    WHEN NOT is_object THEN 'it is not a JSON object'
    WHEN is_ambiguous THEN 'one of its names stands twice'
    WHEN text_key IS NULL THEN 'it has neither recordId nor input'
    WHEN kind NOT IN ('NULL', 'OBJECT', 'ARRAY') THEN 'its result is a JSON ' || kind
    WHEN kind = 'ARRAY' AND json_array_length(raw_result) > 1 THEN 'its result is a list of several'
    WHEN coalesce(json_type(result), 'NULL') NOT IN ('NULL', 'OBJECT')
        THEN 'its result is a list of a JSON ' || json_type(result)
    WHEN code IS NULL AND len(json_keys(result)) > 0 THEN 'its result has no codeCategory'
    WHEN regexp_matches(code, '[\x00-\x1f\x7f-\x9f]') THEN 'its codeCategory has a control character'
    WHEN length(code) > {MAX_CODE_CHARACTERS} THEN 'its codeCategory is above {MAX_CODE_CHARACTERS} characters'
    WHEN code_kind IN ('OBJECT', 'ARRAY', 'BOOLEAN') THEN 'its codeCategory is a JSON ' || code_kind
    WHEN status NOT IN ('successful', 'unsuccessful') THEN 'its codeStatus is unknown'
    WHEN status = 'successful' AND code IS NULL THEN 'its codeStatus is successful but it has no code'
    WHEN status = 'unsuccessful' AND code IS NOT NULL THEN 'its codeStatus is unsuccessful but it has a code'
    WHEN confidence_text IS NOT NULL AND NOT coalesce(isfinite(confidence), false)
        THEN 'its codeConfidence is not a number'
    WHEN coalesce(json_type(suggestions), 'NULL') NOT IN ('NULL', 'ARRAY') THEN 'its suggestions are not a list'
    END AS problem
FROM fields
"""  # noqa: S608

#: The lines of an input file, whose path is the parameter `input`.
INPUT_LINES = """read_json($input, format = 'newline_delimited',
    columns = {'recordId': 'VARCHAR', 'occp_text': 'VARCHAR', 'tasks_text': 'VARCHAR'})"""

#: The lines, matched with the texts that were sent.
_MATCH_LINES = f"""
CREATE OR REPLACE TABLE memory.matched_lines AS
WITH sent AS (FROM {INPUT_LINES})
SELECT lines.* EXCLUDE (echo, problem), input.occp_text, input.tasks_text,
    coalesce(echo.occp_text <> input.occp_text OR echo.tasks_text <> input.tasks_text, false) AS is_echo_different,
    CASE
    WHEN lines.text_key IS NULL THEN problem
    WHEN input.recordId IS NULL THEN 'its recordId was not sent'
    WHEN is_echo_different AND echo_letters(echo) <> echo_letters(input) AND text_key(echo.occp_text, echo.tasks_text)
        IN (SELECT recordId FROM sent) THEN 'its input is that of another text'
    ELSE problem END AS problem
FROM lines LEFT JOIN sent AS input ON input.recordId = lines.text_key
"""  # noqa: S608

_STORE_UNANSWERED = f"""
INSERT INTO unanswered
SELECT $part, input.recordId, input.occp_text, input.tasks_text
FROM {INPUT_LINES} AS input ANTI JOIN results ON results.text_key = input.recordId
"""  # noqa: S608

#: SQL of the names in documented lines, in their inputs and in their results, which take little time to compare.
_LINE_NAMES = "['recordId', 'codeStatus', 'input', 'result', 'suggestions']"
_DOCUMENTED_NAMES = ", ".join(
    f"[{_LINE_NAMES}, {input_names}, {result_names}, NULL]"
    for input_names in ("['recordId', 'occp_text', 'tasks_text']", "['occp_text', 'tasks_text']")
    for result_names in ("['codeCategory', 'codeLabel', 'codeConfidence']", "[]")
)

#: Whether a name that we use stands twice in a JSON object, or in its input or result; NULL if the text is no object.
_HAS_REPEATED_NAME = f"""
CREATE OR REPLACE TEMP MACRO list_our_names(names) AS list_filter(names, lambda name: name IN (
    'recordId', 'codeStatus', 'input', 'result', 'suggestions', 'occp_text', 'tasks_text',
    'codeCategory', 'codeLabel', 'codeConfidence'));
CREATE OR REPLACE TEMP MACRO has_repeated_names(names) AS
    coalesce(len(list_distinct(list_our_names(names))) < len(list_our_names(names)), false);
CREATE OR REPLACE TEMP MACRO has_repeated_name(text) AS CASE
    WHEN TRY(json_keys(text, ['$', '$.input', '$.result', '$.result[0]'])) IN ({_DOCUMENTED_NAMES}) THEN false
    WHEN NOT json_valid(text) OR json_type(text) <> 'OBJECT' THEN NULL
    ELSE has_repeated_names(json_keys(text))
        OR has_repeated_names(json_keys(text, '$.input')) OR has_repeated_names(json_keys(text, '$.result'))
        OR has_repeated_names(json_keys(text, '$.result[0]')) END
"""

#: Letters and digits of a text, by which two spellings of one text are equal.
_ECHO_LETTERS = """
CREATE OR REPLACE TEMP MACRO echo_letters(texts) AS
    regexp_replace(lower(texts.occp_text || texts.tasks_text), '[^a-z0-9]', '', 'g')
"""
_COUNT_DIFFERENCES = """
SELECT count(*), count(*) FILTER (is_echo_different), count(*) FILTER (is_label_changed),
    count(*) FILTER (code IS NOT NULL AND NOT regexp_full_match(code, '[0-9]{1,6}'))
FROM memory.matched_lines WHERE problem IS NULL
"""

_FIND_REPEATED_KEYS = """
CREATE OR REPLACE TABLE memory.repeated_keys AS
WITH repeated AS (
    SELECT text_key FROM memory.matched_lines WHERE problem IS NULL GROUP BY text_key HAVING count(*) > 1
)
SELECT text_key, min(line) AS first_line,
    count(DISTINCT (code, label, confidence_text, suggestions)) = 1 AS is_consistent
FROM memory.matched_lines SEMI JOIN repeated USING (text_key) WHERE problem IS NULL GROUP BY text_key
"""

_COUNT_PROBLEMS = """
SELECT (SELECT count(*) FROM memory.matched_lines WHERE problem IS NOT NULL)
    + (SELECT count(*) FROM memory.repeated_keys)
"""

_DISCARD_LINES = """
INSERT INTO discarded_lines
SELECT $part, line, problem FROM memory.matched_lines WHERE problem IS NOT NULL
UNION ALL
SELECT $part, line, CASE WHEN is_consistent THEN 'it repeats line ' || first_line
    ELSE 'its recordId is on several lines that disagree, the first is line ' || first_line END
FROM memory.matched_lines JOIN memory.repeated_keys USING (text_key)
WHERE problem IS NULL AND NOT (is_consistent AND line = first_line)
"""

_SELECT_RESULTS = """
CREATE OR REPLACE VIEW results AS
SELECT text_key, occp_text, tasks_text, CASE WHEN code IS NULL THEN 'uncoded' ELSE 'coded' END AS outcome,
    code, label, confidence, CASE WHEN regexp_full_match(code, '[0-9]{1,6}') THEN length(code) END AS level,
    CASE WHEN json_array_length(suggestions) > 0 THEN CAST(suggestions AS VARCHAR) END AS suggestions
FROM memory.matched_lines LEFT JOIN memory.repeated_keys USING (text_key)
WHERE problem IS NULL AND (repeated_keys.text_key IS NULL OR (is_consistent AND line = first_line))
"""


@dataclass(frozen=True)
class PartResult(Handoff):
    """How the operation of one part ended, and its files.

    :param operation_id: GUID; None if no operation was opened
    :param state: how the operation ended; `unknown` if that was not recorded
    :param message: why there is no output, in words
    :param output_uri, metadata_uri: output files; None if not downloaded
    :param input_uri, fingerprint: the input file that was coded; and its topic, model and hash
    :param seconds: duration from the upload to the end of the operation; None if unknown
    """

    part: PartNumber
    operation_id: PlainId | None
    state: Word
    message: Text | None = None
    output_uri: RunFile | None = None
    metadata_uri: RunFile | None = None
    input_uri: InputFile | None = None
    fingerprint: Fingerprint | None = None
    seconds: Seconds | None = None


@dataclass(frozen=True)
class PartSummary:
    """What the output of one part contained.

    :param usable, discarded: texts with a result, and lines that could not be used
    :param problem: why the part as a whole is incomplete; None if it is not
    """

    usable: int = 0
    discarded: int = 0
    problem: str | None = None


def read_results(engine: Engine, part: int, input_file: Path, output_file: Path) -> PartSummary:
    """Read the results of one output file for the engine's view `results`, and add its other lines to
    `discarded_lines`.

    A line is matched to its text by `recordId`, or by the echoed input if that is null, empty or missing. `result`
    can be an object, null, missing, `{}` or a list of one; `suggestions` null, missing or a list; the confidence a
    number or a numeric string (docs/service-contract.md 3.4, 8.21 to 8.27). Lines can end in CRLF, the file can begin
    with a byte order mark and lack a final newline (8.30). Lines are counted from 1.
    """
    engine.execute(TABLES)
    engine.execute(_HAS_REPEATED_NAME + ";" + _ECHO_LETTERS)
    with ExitStack() as files:
        if find_long_line(output_file, MAX_LINE_BYTES) is not None:
            output_file = files.enter_context(_repair(output_file))
        try:
            _match_lines(engine, input_file, output_file, _NO_LINE_NUMBER)
        except duckdb.InvalidInputException:
            output_file = files.enter_context(_repair(output_file))
            _match_lines(engine, input_file, output_file, _NO_LINE_NUMBER)
        if engine.execute(_COUNT_PROBLEMS).fetchall() != [(0,)]:
            _match_lines(engine, input_file, output_file, _LINE_NUMBER)
    _report_differences(engine, part)
    execute_within_memory(engine, _DISCARD_LINES, {"part": part})
    engine.execute(_SELECT_RESULTS)
    ((usable,),) = execute_within_memory(engine, "SELECT count(*) FROM results").fetchall()
    counts = engine.execute("SELECT count(*) FROM discarded_lines WHERE part = ?", [part])
    ((discarded,),) = counts.fetchall()
    return PartSummary(usable, discarded)


def _match_lines(engine: Engine, input_file: Path, output_file: Path, line_number: str) -> None:
    """Parse the lines of an output file, and match them with the texts that were sent.

    The lines are stored before they are matched, so that the engine needs memory for one step at a time.

    :param line_number: SQL of the numbers of the lines
    """
    lines = f"SELECT {line_number} AS line, coalesce(text, '') AS text FROM {_OUTPUT_LINES}"  # noqa: S608
    parse = f"CREATE OR REPLACE TEMP TABLE lines AS WITH numbered_lines AS ({lines}), {_PARSE_LINES}"
    execute_within_memory(engine, parse, {"output": escape_glob(output_file)})
    execute_within_memory(engine, _MATCH_LINES, {"input": escape_glob(input_file)})
    execute_within_memory(engine, _FIND_REPEATED_KEYS)


def discard_part(engine: Engine, part: int) -> None:
    """Remove what the engine's tables have of a part that could not be read completely."""
    for table in ("discarded_lines", "unanswered"):
        engine.execute(f"DELETE FROM {table} WHERE part = ?", [part])  # noqa: S608


def find_unanswered(engine: Engine, part: int, input_file: Path) -> None:
    """Add the texts of an input file that have no result to the engine's table `unanswered`."""
    engine.execute(_STORE_UNANSWERED, {"part": part, "input": escape_glob(input_file)})


def _report_differences(engine: Engine, part: int) -> None:
    """Log how many lines are used although they are other than expected (docs/service-contract.md 10.7)."""
    ((lines, different, labels, codes),) = engine.execute(_COUNT_DIFFERENCES).fetchall()
    if labels:
        log.warning(
            "Part %d: %d of %d output lines have a label above %d characters or with control characters; it is stored"
            " without them",
            part + 1, labels, lines, MAX_LABEL_CHARACTERS,
        )  # fmt: skip
    if codes:
        log.warning(
            "Part %d: %d of %d output lines have a code that is not one to six digits", part + 1, codes, lines
        )
    if different:
        log.warning(
            "Part %d: %d of %d output lines return an input that differs from the text that was sent, such as in"
            " case, quotes or white space; they are used, because their recordId matches",
            part + 1, different, lines,
        )  # fmt: skip


@contextmanager
def _repair(output_file: Path) -> Iterator[Path]:
    """Yield a copy of a file in which other lines replace those that are too long or not text, so that these are
    discarded with a reason, and all lines keep their numbers."""
    repaired = output_file.with_name(output_file.name + ".repaired")
    try:
        with output_file.open("rb") as file, repaired.open("wb") as copy:
            for line in _read_lines(file):
                copy.write(line + b"\n")
        yield repaired
    finally:
        repaired.unlink(missing_ok=True)


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, and others in place of those that cannot be parsed."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        is_long = len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES
        while not line.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            is_long, line = True, rest
        yield _LONG_LINE if is_long else line.rstrip(b"\r\n") if _is_text(line) else _NO_TEXT


def _is_text(line: bytes) -> bool:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return False
    return not any(character < " " for character in text if character != "\t")


def read_model_id(metadata: str) -> str | None:
    """Return the model GUID in a metadata file, None if there is none: its format is not documented
    (docs/service-contract.md 8.28). Another form of the GUID or of the name of the field is accepted with a warning
    (docs/service-contract.md 10.7)."""
    try:
        data = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    members = data if isinstance(data, dict) else {}
    names = [name for name in members if re.sub("[^a-z]", "", name.lower()) == "modelid"]
    value = members[names[0]] if len(names) == 1 else None
    if not isinstance(value, str):
        if names:
            log.warning("A metadata file names its model in an unknown form: it is taken for the model of the run")
        return None
    try:
        model_id = str(UUID(value))
    except ValueError:
        log.warning("A metadata file names a model that is not a GUID")
        return value[:MAX_MODEL_CHARACTERS]
    if (names, value.lower()) != (["modelId"], model_id):
        log.warning("A metadata file names the model in another form: %s %r", names[0], value[:100])
        return model_id
    return value
