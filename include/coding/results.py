"""From the lines of an output file to results: every documented variant is read, anything else is set aside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb

from include.coding.files import pattern_of

#: A line of the output is far below this many bytes; a longer one is not the service's.
MAX_LINE_BYTES = 2_000_000

RESULTS = """
CREATE TABLE IF NOT EXISTS results (
    part INTEGER, operation_id VARCHAR, text_key VARCHAR, occp_text VARCHAR, tasks_text VARCHAR, outcome VARCHAR,
    code VARCHAR, label VARCHAR, confidence DOUBLE, level INTEGER, suggestions VARCHAR
);
CREATE TABLE IF NOT EXISTS set_aside (part INTEGER, line BIGINT, problem VARCHAR);
"""

#: Members of an output line (contract 3.4). `result` and `suggestions` stay JSON: they come in several forms.
_SHAPE = json.dumps(
    {
        "recordId": "VARCHAR",
        "codeStatus": "VARCHAR",
        "input": {"occp_text": "VARCHAR", "tasks_text": "VARCHAR"},
        "result": "JSON",
        "suggestions": "JSON",
    }
)

#: The lines, and what is wrong with each by itself, the first thing found. Contradictions are never resolved by a
#: guess (questions 23, 24). The lines are kept before they are joined: the engine's memory is for one at a time.
_LINES = f"""
CREATE OR REPLACE TEMP TABLE lines AS
WITH numbered AS (
    SELECT row_number() OVER () AS line, coalesce(text, '') AS text
    FROM read_csv($output, header = false, auto_detect = false, columns = {{'text': 'VARCHAR'}}, delim = chr(1),
        quote = '', escape = '', max_line_size = {MAX_LINE_BYTES}, buffer_size = {4 * MAX_LINE_BYTES})
), parsed AS (
    SELECT line,
        CASE WHEN json_valid(text) AND json_type(text) = 'OBJECT' THEN from_json(text, '{_SHAPE}') END AS told
    FROM numbered WHERE NOT regexp_full_match(text, '[ \r]*')
), read AS (
    SELECT line, told IS NOT NULL AS is_object,
        coalesce(nullif(told.recordId, ''), text_key(told.input.occp_text, told.input.tasks_text)) AS text_key,
        told.codeStatus AS status, told.input AS echo, told.suggestions AS suggestions,
        told.result AS raw, coalesce(json_type(told.result), 'NULL') AS kind,
        CASE json_type(told.result) WHEN 'OBJECT' THEN told.result WHEN 'ARRAY' THEN told.result -> 0 END AS result,
        json_type(result -> 'codeCategory') AS code_kind, nullif(result ->> 'codeCategory', '') AS code,
        replace(result ->> 'codeLabel', chr(0), '\ufffd') AS label, result ->> 'codeConfidence' AS confidence_text,
        try_cast(confidence_text AS DOUBLE) AS confidence
    FROM parsed
)
SELECT line, text_key, echo, code, label, confidence_text, confidence, suggestions, CASE
    WHEN NOT is_object THEN 'it is not a JSON object'
    WHEN text_key IS NULL THEN 'it has neither recordId nor input'
    WHEN kind NOT IN ('NULL', 'OBJECT', 'ARRAY') THEN 'its result is a JSON ' || kind
    WHEN kind = 'ARRAY' AND json_array_length(raw) > 1 THEN 'its result is a list of several'
    WHEN coalesce(json_type(result), 'NULL') NOT IN ('NULL', 'OBJECT')
        THEN 'its result is a list of a JSON ' || json_type(result)
    WHEN code IS NULL AND len(json_keys(result)) > 0 THEN 'its result has no codeCategory'
    WHEN contains(code, chr(0)) THEN 'its codeCategory has a NUL'
    WHEN code_kind IN ('OBJECT', 'ARRAY', 'BOOLEAN') THEN 'its codeCategory is a JSON ' || code_kind
    WHEN status NOT IN ('successful', 'unsuccessful') THEN 'its codeStatus is unknown'
    WHEN status = 'successful' AND code IS NULL THEN 'its codeStatus is successful but it has no code'
    WHEN status = 'unsuccessful' AND code IS NOT NULL THEN 'its codeStatus is unsuccessful but it has a code'
    WHEN confidence_text IS NOT NULL AND NOT coalesce(isfinite(confidence), false)
        THEN 'its codeConfidence is no number'
    WHEN coalesce(json_type(suggestions), 'NULL') NOT IN ('NULL', 'ARRAY') THEN 'its suggestions are no list'
    END AS problem
FROM read
"""

#: The lines with the texts that were sent.
_JUDGED = """
CREATE OR REPLACE TEMP TABLE judged AS
SELECT lines.* EXCLUDE (echo, problem), sent.occp_text, sent.tasks_text, CASE
    WHEN text_key IS NULL THEN problem
    WHEN sent.recordId IS NULL THEN 'its recordId was not sent'
    WHEN echo.occp_text <> sent.occp_text OR echo.tasks_text <> sent.tasks_text
        THEN 'its input is not what was sent'
    ELSE problem END AS problem
FROM lines LEFT JOIN (
    SELECT * FROM read_json($input, format = 'newline_delimited',
        columns = {'recordId': 'VARCHAR', 'occp_text': 'VARCHAR', 'tasks_text': 'VARCHAR'})
) AS sent ON sent.recordId = lines.text_key
"""

_TWICE = """
CREATE OR REPLACE TEMP TABLE twice AS
SELECT text_key, min(line) AS first, count(DISTINCT (code, label, confidence_text, suggestions)) = 1 AS alike
FROM judged WHERE problem IS NULL GROUP BY text_key HAVING count(*) > 1
"""

_SET_ASIDE = """
INSERT INTO set_aside
SELECT $part, line, problem FROM judged WHERE problem IS NOT NULL
UNION ALL
SELECT $part, line, CASE WHEN alike THEN 'it repeats line ' || first
    ELSE 'its recordId stands on several lines that disagree, the first is line ' || first END
FROM judged JOIN twice USING (text_key) WHERE problem IS NULL AND NOT (alike AND line = first)
"""

_KEEP = """
INSERT INTO results
SELECT $part, $operation_id, text_key, occp_text, tasks_text,
    CASE WHEN code IS NULL THEN 'uncoded' ELSE 'coded' END, code, label, confidence,
    CASE WHEN regexp_full_match(code, '[0-9]{1,6}') THEN length(code) END,
    CASE WHEN json_array_length(suggestions) > 0 THEN CAST(suggestions AS VARCHAR) END
FROM judged LEFT JOIN twice USING (text_key)
WHERE problem IS NULL AND (twice.text_key IS NULL OR (alike AND line = first))
"""


@dataclass(frozen=True)
class Returned:
    """What came back of one part.

    :param part: its number
    :param operation_id: GUID of its operation, None if none was opened
    :param state: how the operation ended, `unknown` if nobody was told
    :param message: why there is no output, in words
    :param output, metadata: URIs of the files, None for what did not come down
    :param sent: URI of the input file that was coded
    :param fingerprint: what was coded, by which model: topic, model GUID and SHA-256 of the input file
    :param seconds: it was waited for until its end was seen, None if not, or not from its begin
    """

    part: int
    operation_id: str | None
    state: str
    message: str | None = None
    output: str | None = None
    metadata: str | None = None
    sent: str | None = None
    fingerprint: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Read:
    """What was read of one output file.

    :param usable: texts with a result
    :param set_aside: lines that could not be used
    :param problem: why the whole file could not be used, None if it could
    :param metadata: the metadata file as it came
    """

    usable: int = 0
    set_aside: int = 0
    problem: str | None = None
    metadata: str | None = None


def read_results(engine: duckdb.DuckDBPyConnection, part: int, operation_id: str, sent: Path, output: Path) -> Read:
    """Add the results of one output file to the table `results` of the engine, the rest to `set_aside`.

    A line is joined to its text by `recordId`, or by the echoed input where that is null, empty or missing; `result`
    may be an object, null, missing, `{}` or a list of one; `suggestions` null, missing or a list; the confidence a
    number or a numeric string (contract 3.4; questions 21 to 27, 30). The lines are read with CRLF, a byte order mark
    or no final newline as well, and counted from 1.

    :param sent: the input file of the part
    """
    engine.execute(RESULTS)
    before = _counts(engine)
    try:
        engine.execute(_LINES, {"output": pattern_of(output)})
    except duckdb.InvalidInputException:
        _read_mended(engine, output)
    engine.execute(_JUDGED, {"input": pattern_of(sent)})
    engine.execute(_TWICE)
    engine.execute(_SET_ASIDE, {"part": part})
    engine.execute(_KEEP, {"part": part, "operation_id": operation_id})
    usable, set_aside = (after - old for after, old in zip(_counts(engine), before, strict=True))
    return Read(usable, set_aside)


def _read_mended(engine: duckdb.DuckDBPyConnection, output: Path) -> None:
    """Read the lines of a file in which some are not even text: `?` stands for those, so that they are set aside."""
    mended = output.with_name(output.name + ".mended")
    try:
        with output.open("rb") as file, mended.open("wb") as copy:
            while line := file.readline(MAX_LINE_BYTES):
                copy.write((line.rstrip(b"\r\n") if _is_text(line) else b"?") + b"\n")
        engine.execute(_LINES, {"output": pattern_of(mended)})
    finally:
        mended.unlink(missing_ok=True)


def _is_text(line: bytes) -> bool:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return False
    return len(line) < MAX_LINE_BYTES and not any(character < " " for character in text if character != "\t")


def _counts(engine: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    ((usable, set_aside),) = engine.execute(
        "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM set_aside)"
    ).fetchall()
    return usable, set_aside


def model_of(metadata: str) -> str | None:
    """The model GUID that a metadata file names, None if it names none: its form is not documented (question 28)."""
    try:
        data = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    value = data.get("modelId") if isinstance(data, dict) else None
    return value if isinstance(value, str) else None
