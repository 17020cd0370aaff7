"""Files that would need too much memory: each is refused with a reason, or read within a limit, whatever its size."""

import gzip
import json
import multiprocessing
import os
import re
import struct
import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.coding.file_scan import MAX_COLUMNS
from include.coding.parquet_files import MAX_FOOTER_BYTES
from include.coding.source import materialize_source
from include.coding.text_files import MAX_LINE_BYTES
from include.coding.workbook_sizes import MAX_DIRECTORY_BYTES, MAX_ROW_CHARACTERS
from tests.coding.conftest import DAY, PROCESSES, make_plan, open_test_source

MEMORY_MB = 192
#: Beside the memory of the engine: Python, its modules, and the buffers of readers.
OTHER_MEMORY_MB = 350
HEADER = f"record_id,response_date,occp_text,tasks_text\n1,{DAY},chef,cooks\n"
LINE = json.dumps({"record_id": "1", "response_date": DAY, "occp_text": "chef", "tasks_text": "cooks"}) + "\n"
SHEET = "xl/worksheets/sheet1.xml"
SPACES = b" " * (1 << 20)


def read_in_process(folder, source, changes, results):
    """Read a source as `prepare` does, and send its number of records or its error, and the peak of the memory."""
    try:
        plan = make_plan(source=str(source), max_rejected_share=1, **changes)
        with open_test_source(folder / "run", plan, None, memory_mb=MEMORY_MB) as (engine, _):
            materialize_source(plan, engine)
            ((outcome,),) = engine.execute(
                "SELECT count(*) FROM source WHERE hash(COLUMNS(*)) IS NOT NULL"
            ).fetchall()
    except Exception as error:  # noqa: BLE001 - the test looks at any
        outcome = f"{type(error).__name__}: {error}"
    peak_kb = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    results.send((outcome, peak_kb // 1024))


@pytest.fixture
def read(tmp_path):
    """A function that reads a file in a process of its own, and returns its number of records or why it is refused."""

    def read_source(path, **changes):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = PROCESSES.Process(target=read_in_process, args=(tmp_path, path, changes, sender))
        process.start()
        sender.close()
        try:
            outcome, peak_mb = receiver.recv()
        finally:
            process.join()
        assert peak_mb < MEMORY_MB + OTHER_MEMORY_MB
        return outcome

    return read_source


# ---- text files --------------------------------------------------------------------------------------------------


def write_repeated(path, start, block, count, end=b""):
    with path.open("wb") as file:
        file.write(start)
        for _ in range(count):
            file.write(block)
        file.write(end)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("start", ["", "first lines"])
def test_a_terabyte_of_zeros_is_refused_at_its_first_long_line(read, tmp_path, name, start):
    path = tmp_path / name
    text = (HEADER if name == "a.csv" else LINE * 2) if start else ""
    path.write_text(text)
    os.truncate(path, 1 << 40)
    line = 3 if start else 1
    assert f"cannot be read: line {line} is above {MAX_LINE_BYTES} bytes; check that every line ends" in read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["last", "not last"])
def test_a_text_file_without_line_ends_is_refused(read, tmp_path, name, end):
    path = write_repeated(tmp_path / name, b'{"occp_text": "', b"x" * (1 << 20), 200, b'"}' + end)
    assert f"cannot be read: line 1 is above {MAX_LINE_BYTES} bytes" in read(path)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_long_line_is_named_whatever_ends_the_lines(read, tmp_path, line_end):
    text = (
        HEADER.replace("\n", line_end) * 100_000 + f"2,{DAY},{'x' * (3 << 20)},{line_end}" + f"3,{DAY},a,b{line_end}"
    )
    (tmp_path / "a.csv").write_text(text, newline="")
    assert f"line 200001 is above {MAX_LINE_BYTES} bytes" in read(tmp_path / "a.csv")


def test_a_quote_that_is_never_closed_is_refused(read, tmp_path):
    path = write_repeated(tmp_path / "a.csv", f'{HEADER}2,{DAY},"'.encode(), b"nurse\n" * 100_000, 200)
    assert re.search("line 3 (begins a row above|has a quote that is not closed)", read(path))


def test_a_header_whose_quote_is_never_closed_is_refused(read, tmp_path):
    path = write_repeated(tmp_path / "a.csv", b'record_id,"', b"nurse\n" * 100_000, 200)
    assert "SourceError: " in read(path)


def test_old_line_ends_and_another_encoding_need_no_memory(read, tmp_path):
    start = HEADER.replace("\n", "\r").encode()
    path = write_repeated(tmp_path / "a.csv", start, f"2,{DAY},chef,\r".encode() * 10_000, 1_000, b"3,\xff,,\r")
    assert "line 10000003 is not in UTF-8" in read(path)


@pytest.mark.parametrize("columns", [MAX_COLUMNS, MAX_COLUMNS + 1, 500_000])
def test_a_csv_file_has_a_bounded_number_of_columns(read, tmp_path, columns):
    row = "," * (columns - 4) + "\n"
    (tmp_path / "a.csv").write_text(HEADER.replace("\n", row))
    expected = 1 if columns == MAX_COLUMNS else f"it has {columns} columns, above {MAX_COLUMNS}"
    outcome = read(tmp_path / "a.csv")
    assert outcome == expected or str(expected) in str(outcome)


def test_names_of_members_that_differ_in_each_line_need_no_memory(read, tmp_path):
    with (tmp_path / "a.jsonl").open("w") as file:
        for number in range(300_000):
            file.write(LINE.replace("{", f'{{"name {number}": 1, "other {number}": 1, ', 1))
    assert read(tmp_path / "a.jsonl") == 300_000


DEEP_VALUES = {"lists": "[" * 100_000 + "]" * 100_000, "objects": '{"a":' * 100_000 + "1" + "}" * 100_000}


@pytest.mark.parametrize("value", DEEP_VALUES)
@pytest.mark.parametrize("before", [0, 2])
def test_a_member_can_be_nested_as_deep_as_a_line_is_long(read, tmp_path, value, before):
    line = LINE.replace("{", '{"other": ' + DEEP_VALUES[value] + ", ", 1) + LINE.replace('"chef"', DEEP_VALUES[value])
    (tmp_path / "a.jsonl").write_text(LINE * before + line + LINE)
    assert read(tmp_path / "a.jsonl") == before + 3


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
def test_a_gzip_file_that_unpacks_to_much_more_is_refused(read, tmp_path, name):
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(b"[" if "json" in name else HEADER.encode())
        for _ in range(300):
            file.write(SPACES)
    message = "it would unpack to more than 200 times its size; check what it contains, and unpack it yourself"
    assert message in read(tmp_path / name)
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_a_json_array_with_a_huge_object_needs_no_memory(read, tmp_path):
    path = write_repeated(tmp_path / "a.json", b'[{"record_id": "1", "a": "', b"x" * (1 << 20), 300, b'"}]')
    assert f"record 1 is broken, or above {MAX_LINE_BYTES} bytes" in read(path)


def test_a_large_json_array_needs_no_memory(read, tmp_path):
    block = (LINE.strip() + ", \n").encode() * 1000
    path = write_repeated(tmp_path / "a.json", b"[", block, 300, LINE.encode() + b"]")
    assert read(path) == 300_001


def test_a_text_in_another_encoding_needs_no_memory(read, tmp_path):
    with (tmp_path / "a.csv").open("w", encoding="utf-16") as file:
        file.write(HEADER)
        for _ in range(300):
            file.write(f"2,{DAY},caf\u00e9,\n" * 1000)
    assert read(tmp_path / "a.csv", read_options={"encoding": "utf-16"}) == 300_001


def test_compressed_text_is_not_unpacked(read, tmp_path):
    (tmp_path / "a.csv").write_bytes(gzip.compress(HEADER.encode() + b"2,\n" * 50_000_000))
    assert "SourceError: " in read(tmp_path / "a.csv")


# ---- workbooks ---------------------------------------------------------------------------------------------------

TYPES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
CONTENT = "application/vnd.openxmlformats-officedocument.spreadsheetml"
PARTS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{CONTENT}.sheet.main+xml"/>'
    f'<Override PartName="/{SHEET}" ContentType="{CONTENT}.worksheet+xml"/>'
    f'<Override PartName="/xl/sharedStrings.xml" ContentType="{CONTENT}.sharedStrings+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{CONTENT}.styles+xml"/></Types>',
    "_rels/.rels": f'{RELATIONS}<Relationship Id="a" Type="{TYPES}/officeDocument" Target="xl/workbook.xml"/>'
    "</Relationships>",
    "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{TYPES}"><sheets><sheet name="a" sheetId="1" r:id="b"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'{RELATIONS}<Relationship Id="b" Type="{TYPES}/worksheet" '
    f'Target="worksheets/sheet1.xml"/><Relationship Id="c" Type="{TYPES}/sharedStrings" Target="sharedStrings.xml"/>'
    f'<Relationship Id="d" Type="{TYPES}/styles" Target="styles.xml"/></Relationships>',
    "xl/sharedStrings.xml": f"<sst {MAIN}><si><t>chef</t></si></sst>",
    "xl/styles.xml": f"<styleSheet {MAIN}/>",
}
NAMES = ("record_id", "response_date", "occp_text", "tasks_text")
HEADER_ROW = "<row>" + "".join(f'<c t="inlineStr"><is><t>{name}</t></is></c>' for name in NAMES) + "</row>"
SHEET_START, SHEET_END = f"<worksheet {MAIN}><sheetData>{HEADER_ROW}", "</sheetData></worksheet>"
ROW = f'<row><c><v>1</v></c><c t="str"><v>{DAY}</v></c><c t="s"><v>0</v></c></row>'


def write_workbook(path, part=SHEET, content=(SHEET_START, ROW, SHEET_END), **changes):
    """Write a workbook, one part of which is written from pieces, of which some are pairs of a text and a count."""
    parts = {SHEET: SHEET_START + ROW + SHEET_END, **PARTS, **changes}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in parts.items():
            if name != part:
                archive.writestr(name, text)
        with archive.open(part, "w", force_zip64=True) as file:
            for piece in content:
                text, count = piece if isinstance(piece, tuple) else (piece, 1)
                repeats = max(1, (1 << 20) // len(text))
                for start in range(0, count, repeats):
                    file.write(text.encode() * min(repeats, count - start))
    return path


def test_a_plain_workbook_is_read(read, tmp_path):
    assert read(write_workbook(tmp_path / "a.xlsx")) == 1


#: Content of the sheet or another part, and what is said about it or the number of records. Random bytes are not needed:
#: each of them was a bomb of a few megabytes at most.
WORKBOOKS = {
    "a sheet of 3 GB": (SHEET, [SHEET_START, (" " * 1024, 3 << 20), SHEET_END], "it would unpack to "),
    "shared texts of 3 GB": ("xl/sharedStrings.xml", [f"<sst {MAIN}>", ("<si/>", 600 << 20)], "it would unpack to "),
    "a file that is not needed": ("xl/media/a.png", [("x", 100 << 20)], "200 times the packed size"),
    "a cell of 100 MB": (
        SHEET,
        [
            SHEET_START,
            "<row><c/><c/><c t='inlineStr'><is><t>",
            ("nurse doctor ", 8 << 20),
            "</t></is></c></row>",
            SHEET_END,
        ],
        "200 times the packed size|it has a text above",
    ),
}


def vary(number):
    """Return a text that does not compress as well as equal ones do."""
    return f"{number * 2654435761 % 4294967296:x}"


def repeat(make_text, count):
    """Return pieces that do not compress well, so that their ratio is one of real workbooks."""
    return [
        "".join(make_text(vary(number)) for number in range(start, start + 1000)) for start in range(0, count, 1000)
    ]


PIECES = {
    "a row with millions of cells": (
        SHEET,
        lambda: [
            SHEET_START,
            "<row>",
            *repeat(lambda text: f"<c><v>{int(text, 16)}</v></c>", 20_000),
            "</row>",
            SHEET_END,
        ],
        f"has 2 rows and 20000 columns, above 1048576 and {MAX_COLUMNS}",
    ),
    "empty formatted cells in each of a million rows": (
        SHEET,
        lambda: [
            SHEET_START,
            ROW,
            *repeat(lambda text: f'<row s="{text}"><c s="1"/><c s="2"/></row>', 1_000_000),
            SHEET_END,
        ],
        1,
    ),
    "more rows than Excel has": (
        SHEET,
        lambda: [SHEET_START, ROW, *repeat(lambda text: f'<row s="{text}"/>', 1_100_000), SHEET_END],
        "has 1100002 rows and [0-9]+ columns, above 1048576",
    ),
    "a last row far down": (
        SHEET,
        lambda: [SHEET_START, ROW, ROW.replace("<row>", '<row r="1048576">'), SHEET_END],
        2,
    ),
    "a row above the number of rows": (
        SHEET,
        lambda: [SHEET_START, ROW.replace("<row>", '<row r="99999999999">'), SHEET_END],
        "has 99999999999 rows and",
    ),
    "a declared dimension": (
        SHEET,
        lambda: [SHEET_START.replace("<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>'), ROW, SHEET_END],
        1,
    ),
    "millions of merged cells": (
        SHEET,
        lambda: [
            SHEET_START,
            ROW,
            "</sheetData><mergeCells>",
            *repeat(lambda text: f'<mergeCell ref="A{int(text, 16) % 1_000_000 + 1}"/>', 1_000_000),
            "</mergeCells></worksheet>",
        ],
        1,
    ),
    "a long cell": (
        SHEET,
        lambda: [
            SHEET_START,
            "<row><c/><c/><c t='inlineStr'><is><t>",
            *repeat(str, 1_000_000),
            "</t></is></c></row>",
        ],
        f"it has a text above {MAX_ROW_CHARACTERS} characters",
    ),
    "a long cell of a column that is not needed": (
        SHEET,
        lambda: [
            SHEET_START,
            ROW,
            "<row><c/><c/><c/><c/><c t='inlineStr'><is><t>",
            *repeat(str, 2_000_000),
            "</t></is></c></row>",
            SHEET_END,
        ],
        f"it has a text above {MAX_ROW_CHARACTERS} characters|^1$",
    ),
    "a long shared text": (
        "xl/sharedStrings.xml",
        lambda: [f"<sst {MAIN}><si><t>", *repeat(str, 1_000_000), "</t></si></sst>"],
        f"it has a text above {MAX_ROW_CHARACTERS} characters",
    ),
    "a million shared texts": (
        "xl/sharedStrings.xml",
        lambda: [f"<sst {MAIN}>", *repeat(lambda text: f"<si><t>{text}</t></si>", 1_000_000), "</sst>"],
        1,
    ),
    "a text that many cells share": (
        SHEET,
        lambda: [
            SHEET_START,
            *repeat(lambda text: f'<row s="{text}"><c t="s"><v>0</v></c></row>', 100_000),
            SHEET_END,
        ],
        "with 100001 rows and 4 columns needs 9[0-9]{3} MB of memory, and 384 MB are there; save the sheet as CSV",
    ),
    "a shared text that is missing": (
        SHEET,
        lambda: [SHEET_START, ROW.replace("<v>0</v>", "<v>7</v>"), SHEET_END],
        "it is not a complete workbook",
    ),
    "a long tag": (
        SHEET,
        lambda: [SHEET_START, '<row s="', *repeat(str, 1_000_000), '"/>', SHEET_END],
        "it has a text above 1048576 characters",
    ),
    "a long comment": (
        SHEET,
        lambda: [SHEET_START, "<!-- ", *repeat(str, 1_000_000), " -->", SHEET_END],
        "it has a text above 1048576 characters",
    ),
    "deep elements": (
        SHEET,
        lambda: [SHEET_START, ROW, "<a>" * 1000, "</a>" * 1000, SHEET_END],
        1,
    ),
    "many names of elements": (
        SHEET,
        lambda: [SHEET_START, ROW, *repeat(lambda text: f"<a{text}/>", 1_000_000), SHEET_END],
        1,
    ),
    "many names of attributes": (
        SHEET,
        lambda: [SHEET_START, ROW, *repeat(lambda text: f'<row xmlns:a{text}=""/>', 1_000_000), SHEET_END],
        1,
    ),
    "two cells that span all rows and columns": (
        SHEET,
        lambda: [SHEET_START, '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', SHEET_END],
        "with 1048576 rows and 16388 columns|above 1048576 and 16384",
    ),
    "a cell in another row than it is in": (
        SHEET,
        lambda: [SHEET_START, '<row r="2"><c r="A99999999"><v>1</v></c></row>', SHEET_END],
        "has 99999999 rows and",
    ),
    "a column that no sheet has": (
        SHEET,
        lambda: [SHEET_START, '<row r="2"><c r="ZZZZ2"><v>1</v></c></row>', SHEET_END],
        "above 1048576 and 16384",
    ),
    "cells without a place after the last one": (
        SHEET,
        lambda: [SHEET_START, '<row r="2"><c r="XFA2"><v>1</v></c>', "<c><v>1</v></c>" * 100, "</row>", SHEET_END],
        "above 1048576 and 16384",
    ),
    "a million rows with columns far apart": (
        SHEET,
        lambda: [
            SHEET_START,
            *repeat(lambda text: f'<row s="{text}"><c><v>1</v></c></row>', 300_000),
            '<row><c r="ZZ300002"><v>1</v></c></row>',
            SHEET_END,
        ],
        "needs [0-9]+ MB of memory, and 384 MB are there; save the sheet as CSV, or raise CODING_MEMORY_MB",
    ),
    "another encoding": (
        SHEET,
        lambda: [SHEET_START, ROW, "\0", SHEET_END],
        "its XML is not in UTF-8",
    ),
    "entities": (
        SHEET,
        lambda: [
            '<!DOCTYPE a [<!ENTITY a "nurse"><!ENTITY b "&a;&a;&a;">]>',
            SHEET_START,
            "<row>&b;</row>",
            SHEET_END,
        ],
        "its XML defines entities",
    ),
    "many styles": (
        "xl/styles.xml",
        lambda: [
            f"<styleSheet {MAIN}><cellXfs>",
            *repeat(lambda text: f'<xf a="{text}"/>', 1_000_000),
            "</cellXfs></styleSheet>",
        ],
        1,
    ),
    "many relations": (
        "xl/_rels/workbook.xml.rels",
        lambda: repeat(lambda text: f'<Relationship Id="{text}" Type="" Target=""/>', 100_000),
        "",
    ),
}


@pytest.mark.parametrize("attack", WORKBOOKS)
def test_a_workbook_that_unpacks_to_much_more_is_refused_before_it_is_unpacked(read, tmp_path, attack):
    part, content, expected = WORKBOOKS[attack]
    path = write_workbook(tmp_path / "a.xlsx", part, content)
    assert path.stat().st_size < 40 << 20
    assert re.search(f"cannot be read as Excel: .*({expected})", read(path))


@pytest.mark.parametrize("attack", PIECES)
def test_a_hostile_sheet_is_refused_or_read_within_the_memory(read, tmp_path, attack):
    part, make_pieces, expected = PIECES[attack]
    shared = (
        {"xl/sharedStrings.xml": f"<sst {MAIN}><si><t>{'x' * 100_000}</t></si></sst>"} if "share" in attack else {}
    )
    path = write_workbook(tmp_path / "a.xlsx", part, make_pieces(), **({} if part in shared else shared))
    outcome = read(path)
    if isinstance(expected, int):
        assert outcome == expected
    else:
        assert re.search(expected, str(outcome))


def test_a_file_in_a_workbook_that_is_longer_than_the_directory_says_is_refused(read, tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", SHEET, [SHEET_START, (ROW, 1_000_000), SHEET_END])
    data, real = path.read_bytes(), len(SHEET_START + ROW * 1_000_000 + SHEET_END)
    assert struct.pack("<I", real) in data
    path.write_bytes(data.replace(struct.pack("<I", real), struct.pack("<I", 1000)))
    assert "it is not a complete workbook (.xlsx)" in read(path)


def test_a_workbook_with_too_many_files_is_refused(read, tmp_path):
    path = write_workbook(tmp_path / "a.xlsx", **{f"xl/{number}": "" for number in range(10_000)})
    assert "its zip archive has 10007 files, above 10000" in read(path)


def test_a_huge_directory_of_a_workbook_is_not_read(read, tmp_path):
    path = tmp_path / "a.xlsx"
    path.touch()
    os.truncate(path, 1 << 40)
    with path.open("ab") as file:
        size = (1 << 31) - 1
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 60_000, 60_000, size, 0, 0))
    assert re.search("the directory of its zip archive is too large|is not a complete workbook", read(path))
    assert size > MAX_DIRECTORY_BYTES


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_workbook_with_another_compression_is_refused(read, tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", compression) as archive:
        for name, text in {**PARTS, SHEET: SHEET_START + ROW + SHEET_END}.items():
            archive.writestr(name, text)
    assert "its zip archive has another compression than that of Excel" in read(tmp_path / "a.xlsx")


# ---- Parquet -----------------------------------------------------------------------------------------------------


def write_parquet(path, rows=1, **columns):
    fields = {name: ["1"] * rows for name in NAMES} | {"response_date": [DAY] * rows} | columns
    pq.write_table(pa.table(fields), path)


def test_a_footer_that_claims_to_be_huge_is_not_read(read, tmp_path):
    write_parquet(tmp_path / "good.parquet")
    content = (tmp_path / "good.parquet").read_bytes()
    for size in (MAX_FOOTER_BYTES + 1, 2**32 - 1):
        path = tmp_path / "a.parquet"
        path.write_bytes(content[:-8] + struct.pack("<I", size) + b"PAR1")
        assert f"its description has {size} bytes, above {MAX_FOOTER_BYTES}" in read(path)


def test_a_parquet_file_has_a_bounded_number_of_columns(read, tmp_path):
    names = [*NAMES, *(str(number) for number in range(MAX_COLUMNS))]
    pq.write_table(pa.table([pa.array([DAY])] * len(names), names=names), tmp_path / "a.parquet")
    assert f"it has {len(names)} columns, above {MAX_COLUMNS}" in read(tmp_path / "a.parquet")


def test_rows_that_a_file_cannot_hold_are_refused(read, tmp_path):
    duckdb.execute(
        f"""COPY (SELECT NULL::VARCHAR AS record_id, DATE '{DAY}' AS response_date, 'a' AS occp_text, '' AS tasks_text
        FROM range(50000000)) TO '{tmp_path}/a.parquet' (ROW_GROUP_SIZE 50000000)"""
    )
    assert re.search("it says that it has 50000000 rows in [0-9]+ bytes", read(tmp_path / "a.parquet"))


@pytest.mark.parametrize("size", [1_000, 50_000, 1_000_000])
def test_a_text_that_a_dictionary_repeats_needs_no_memory(read, tmp_path, size):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * size])
    ids = [str(number) for number in range(100_000)]
    write_parquet(tmp_path / "a.parquet", 100_000, record_id=ids, occp_text=texts)
    refusal = "SourceError: .* the texts in 2048 rows from row [0-9]+ have [0-9]+ bytes"
    assert re.match("100000$" if size == 1_000 else refusal, str(read(tmp_path / "a.parquet")))


def test_a_few_long_texts_are_read(read, tmp_path):
    write_parquet(tmp_path / "a.parquet", 10_000, occp_text=["chef"] * 9_990 + ["x" * 200_000] * 10)
    assert read(tmp_path / "a.parquet") == 10_000


def test_a_text_above_the_memory_is_refused(read, tmp_path):
    write_parquet(tmp_path / "a.parquet", occp_text=pa.array(["x" * 600_000_000], pa.large_string()))
    assert re.match("(SourceError|StagingError): ", str(read(tmp_path / "a.parquet")))


@pytest.mark.parametrize("position", range(20, 420, 50))
def test_a_damaged_footer_is_refused_or_read(read, tmp_path, position):
    write_parquet(tmp_path / "a.parquet", 1000)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[-8 - position : -8 - position + 5] = b"\xff" * 5
    (tmp_path / "a.parquet").write_bytes(bytes(content))
    assert re.match("SourceError: |1000$", str(read(tmp_path / "a.parquet")))
