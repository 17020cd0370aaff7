"""A table of sources: a file, the params of the run, and its records or the sentence with which it is refused."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from tests.support.source_files import (
    CELL_DAY,
    CHEF,
    DAY,
    HEADER,
    NAMES,
    NURSE,
    count_days_from_1904,
    edit_cell,
    excel,
    format_empty_rows,
    hide_first_sheet,
    lines,
    merge_title,
    packed,
    raw,
    record,
    rows,
    sheets,
    table,
    text,
)


@dataclass(frozen=True)
class Case:
    """A source that a person names.

    :param trait: what is special about it
    :param write: writes it
    :param expected: its records, or what the refusal says after the name of the source
    :param snapshot: expected numbers of rows that no run codes
    :param independent: what another reader has to be told to find the values
    """

    trait: str
    name: str
    write: object
    expected: object
    columns: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    plan: dict = field(default_factory=dict)
    snapshot: dict = field(default_factory=dict)
    independent: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.name}: {self.trait}"


NO_TASKS = {"tasks_text": None}
NO_TITLE = {"occp_text": None}
NO_ID = {"record_id": None}
ONE_DAY = {"response_date": DAY, "from_date": DAY, "to_date": DAY}
BOTH = [CHEF, NURSE]
X = (CELL_DAY, "chef", "cooks")
EXCEL_CHEF, EXCEL_NURSE = ("1", *X), ("2", CELL_DAY, "nurse", "cares")
JOB_NAMES = ("record_id", "response_date", "Job title", "Main tasks")
JOB_COLUMNS = {"occp_text": "Job title", "tasks_text": "Main tasks"}
UNDATED = ("record_id", "occp_text", "tasks_text")
REFUSED = None


def C(trait, name, write, expected=REFUSED, **params):
    return Case(trait, name, write, expected, **params)


def job(*values):
    """Return a record with the date."""
    return (values[0], DAY, *values[1:])


CSV = [
    C("plain", "a.csv", rows(CHEF, NURSE), BOTH),
    C("windows line ends", "a.csv", rows(CHEF, NURSE, end="\r\n"), BOTH),
    C("old mac line ends", "a.csv", rows(CHEF, NURSE, end="\r"), BOTH),
    C("no last line end", "a.csv", text(HEADER, ",".join(CHEF), last=False), [CHEF]),
    C("byte order mark", "a.csv", rows(CHEF, encoding="utf-8-sig"), [CHEF]),
    C("line break in quotes", "a.csv", rows(job("1", "chef\nhead", "a"), NURSE), [job("1", "chef\nhead", "a"), NURSE]),
    C("two line ends in quotes", "a.csv", rows(job("1", "a\nb", ""), end="\r\n"), [job("1", "a\nb", None)]),
    C("leading zeros", "a.csv", rows(job("007", "chef", "x")), [job("007", "chef", "x")]),
    C("damaged ids", "a.csv", rows(job("1E+15", "chef", "x")), [job("1E+15", "chef", "x")]),
    C("hash and quotes", "a.csv", rows(job("#1", "5\" pipe", "'a'")), [job("#1", '5" pipe', "'a'")]),
    C("words for missing", "a.csv", rows(job("NULL", "NA", "N/A")), [job("NULL", "NA", "N/A")]),
    C("blank rows", "a.csv", text(HEADER, ",".join(CHEF), ",,,", "", ",,,"), [CHEF], snapshot={"empty_rows": 2}),
    C("comma at the end of the header", "a.csv", text(HEADER + ",", ",".join(CHEF) + ","), [CHEF]),
    C("no records", "a.csv", text(HEADER), []),
    C("comma in names", "a.csv", rows(CHEF, names=("record_id", "response_date", "Job title, main", "Tasks, all"), delimiter=";"),
      [CHEF], columns={"occp_text": "Job title, main", "tasks_text": "Tasks, all"}),
    C("more commas than semicolons", "a.csv", text('record_id;response_date;"Q1, a, b, c";"Q2, d, e, f"', f"1;{DAY};chef;cooks"),
      [CHEF], columns={"occp_text": "Q1, a, b, c", "tasks_text": "Q2, d, e, f"}, independent={"delimiter": ";"}),
    C("line break in a name", "a.csv", rows(CHEF, names=("record_id", "response_date", "job\n(main)", "tasks_text")), [CHEF],
      columns={"occp_text": "job\n(main)"}),
    C("semicolons", "a.csv", rows(CHEF, delimiter=";"), [CHEF]),
    C("tabs", "a.csv", rows(CHEF, delimiter="\t"), [CHEF]),
    C("bars", "a.csv", rows(CHEF, delimiter="|"), [CHEF]),
    C("carets", "a.csv", rows(CHEF, delimiter="^")),
    C("carets, named", "a.csv", rows(CHEF, delimiter="^"), [CHEF], options={"delimiter": "^"}),
    C("delimiter of two kinds", "a.csv", text("record_id;response_date;occp_text,tasks_text,x", "1")),
    C("delimiter of two kinds, named", "a.csv", text("record_id;response_date;occp_text;tasks_text,x,y,z", f"1;{DAY};chef;a,b"),
      REFUSED, options={"delimiter": ";"}),
    C("wrong delimiter", "a.csv", rows(CHEF), options={"delimiter": ";"}),
    C("line sep=", "a.csv", rows(CHEF, delimiter=";", above=["sep=;"]), [CHEF]),
    C("line sep= of a rare character", "a.csv", rows(CHEF, delimiter="^", above=["sep=^"]), [CHEF]),
    C("line sep= and a title", "a.csv", rows(CHEF, delimiter=";", above=["sep=;", "Survey"]), [CHEF], options={"header_row": 2}),
    C("id and ID", "a.csv", text("ID,id,response_date,occp_text,tasks_text", f"A,1,{DAY},chef,cooks"), [CHEF],
      columns={"record_id": "id"}),
    C("other case", "a.csv", rows(CHEF, names=("Record_ID", "Response_Date", "OCCP_TEXT", "Tasks_Text"))),
    C("spaces in names", "a.csv", rows(CHEF, names=("record_id", "response_date", "occp_text ", "tasks_text"))),
    C("near names", "a.csv", rows(CHEF, names=("record id", "ResponseDate", "occp_text", "tasks text"))),
    C("other names", "a.csv", rows(CHEF, names=JOB_NAMES)),
    C("other names, mapped", "a.csv", rows(CHEF, names=JOB_NAMES), [CHEF], columns=JOB_COLUMNS),
    C("name with a space, mapped without", "a.csv", rows(CHEF, names=("record_id", "response_date", "Position ", "tasks_text")),
      columns={"occp_text": "Position"}),
    C("name twice", "a.csv", rows((*CHEF, "x"), names=(*NAMES, "occp_text"))),
    C("no tasks", "a.csv", rows(CHEF[:3], names=NAMES[:3])),
    C("no tasks, said", "a.csv", rows(CHEF[:3], names=NAMES[:3]), [job("1", "chef", None)], columns=NO_TASKS),
    C("tasks that are not wanted", "a.csv", rows(CHEF), [job("1", "chef", None)], columns=NO_TASKS),
    C("no title", "a.csv", rows(("1", DAY, "cooks"), names=("record_id", "response_date", "tasks_text"))),
    C("no title, said", "a.csv", rows(("1", DAY, "cooks"), names=("record_id", "response_date", "tasks_text")),
      [job("1", None, "cooks")], columns=NO_TITLE),
    C("no id", "a.csv", rows(CHEF[1:], names=NAMES[1:])),
    C("no id, said", "a.csv", rows(CHEF[1:], NURSE[1:], names=NAMES[1:]), BOTH, columns=NO_ID),
    C("no id, said, other dates first", "a.csv", rows(("2020-01-01", "x", ""), CHEF[1:], names=NAMES[1:]),
      [job("2", "chef", "cooks")], columns=NO_ID),
    C("no id, no tasks, no dates", "a.csv", rows(("chef",), ("nurse",), names=("occp_text",)),
      [job("1", "chef", None), job("2", "nurse", None)], columns={**NO_ID, **NO_TASKS}, plan=ONE_DAY),
    C("no date", "a.csv", rows(("1", "chef", "cooks"), names=UNDATED)),
    C("no date, one for all", "a.csv", rows(("1", "chef", "cooks"), names=UNDATED), [CHEF], plan=ONE_DAY),
    C("no date, said", "a.csv", rows(("1", "chef", "cooks"), names=UNDATED), [CHEF], columns={"response_date": None}, plan=ONE_DAY),
    C("blank rows, one date", "a.csv", text("record_id,occp_text,tasks_text", "1,chef,cooks", ",,", ",,"), [CHEF], plan=ONE_DAY,
      snapshot={"empty_rows": 2}),
    C("no names", "a.csv", text(",".join(CHEF))),
    C("title row", "a.csv", rows(CHEF, above=["Survey of workers", ""])),
    C("title row, named", "a.csv", rows(CHEF, above=["Survey of workers", ""]), [CHEF], options={"header_row": 3}),
    C("title rows with commas", "a.csv", rows(CHEF, above=["Survey, all, of, workers", "a,b"]), [CHEF], options={"header_row": 3}),
    C("title row with semicolons below", "a.csv", rows(CHEF, delimiter=";", above=["Survey, workers"]), [CHEF], options={"header_row": 2}),
    C("title with a line break in quotes", "a.csv", rows(CHEF, above=['"Survey', 'of",x']), [CHEF], options={"header_row": 2}),
    C("title with an open quote", "a.csv", rows(CHEF, above=['Survey "', "x"]), [CHEF], options={"header_row": 3}),
    C("header row beyond the end", "a.csv", rows(CHEF), options={"header_row": 9}),
    C("wrong header row", "a.csv", rows(CHEF, NURSE), options={"header_row": 2}),
    C("second and third row of names", "a.csv", text("StartDate,ResponseId,Q1,Q2", "Start Date,Response ID,Job?,Tasks?",
      '"{""a"":1}",x,y,z', f"{DAY} 10:00:00,R_1,chef,cooks"), [job("R_1", "chef", "cooks")],
      columns={"record_id": "ResponseId", "response_date": "StartDate", "occp_text": "Q1", "tasks_text": "Q2"},
      plan={"max_rejected_share": 1.0}, snapshot={"unreadable_dates": 2}),
    C("sheet of a text file", "a.csv", rows(CHEF), options={"sheet": "Data"}),
    C("connection of a local file", "a.csv", rows(CHEF), options={"connection": "my_aws"}),
    C("quote not closed", "a.csv", text(HEADER, f'1,{DAY},chef,"cooks', f"2,{DAY},nurse,x")),
    C("text after a quote", "a.csv", text(HEADER, f'1,{DAY},"senior" nurse,x')),
    C("backslash before a quote", "a.csv", text(HEADER, f'1,{DAY},"says \\"hi\\"",x')),
    C("row too short", "a.csv", text(HEADER, f"1,{DAY},chef", f"2,{DAY},nurse,x")),
    C("row too long", "a.csv", text(HEADER, f"1,{DAY},chef,a,b")),
    C("mixed line ends", "a.csv", text(HEADER, f"1,{DAY},chef,a\rb", f"2,{DAY},nurse,y")),
    C("empty", "a.csv", text()),
    C("gzip without its ending", "a.csv", packed(rows(CHEF))),
    C("workbook with another ending", "a.csv", excel(EXCEL_CHEF)),
    C("Parquet with another ending", "a.csv", table(CHEF)),
    C("single quotes", "a.csv", text(HEADER, f"1,{DAY},'chef',x"), [job("1", "'chef'", "x")]),
    C("control characters", "a.csv", text(HEADER, f"1,{DAY},chef,x\x1ay"), [job("1", "chef", "x\x1ay")]),
    C("percent in the name", "a b%.csv", rows(CHEF), [CHEF]),
]

ENCODINGS = [
    C("cp1252", "a.csv", rows(job("1", "café", "“x”"), encoding="cp1252")),
    C("cp1252, named", "a.csv", rows(job("1", "café", "“x”"), encoding="cp1252"), [job("1", "café", "“x”")], options={"encoding": "cp1252"}),
    C("latin-1, named", "a.csv", rows(job("1", "café", "x"), encoding="latin-1"), [job("1", "café", "x")], options={"encoding": "latin-1"}),
    C("UTF-16", "a.csv", rows(CHEF, encoding="utf-16")),
    C("UTF-16, named", "a.csv", rows(CHEF, encoding="utf-16"), [CHEF], options={"encoding": "utf-16"}),
    C("UTF-16 without a mark, named", "a.csv", rows(CHEF, encoding="utf-16-le"), [CHEF], options={"encoding": "utf-16-le"}),
    C("shift-jis, named", "a.csv", rows(job("1", "看護", "x"), encoding="shift_jis"), [job("1", "看護", "x")], options={"encoding": "shift_jis"}),
    C("UTF-8, named", "a.csv", rows(CHEF), [CHEF], options={"encoding": "UTF8"}),
    C("not what was named", "a.csv", text(HEADER, ",".join(CHEF), "2,x,\udc81,y"),
      options={"encoding": "cp1252"}),
    C("half of a character", "a.csv", raw(HEADER.encode("utf-16") + b"\n"), options={"encoding": "utf-16"}),
    C("encoding with an own delimiter", "a.txt", rows(job("1", "café", "x"), delimiter="^", encoding="cp1252"), [job("1", "café", "x")],
      options={"encoding": "cp1252", "delimiter": "^"}),
    C("cp1252 with a title row", "a.csv", rows(job("1", "café", "x"), above=["Enquête"], encoding="cp1252"), [job("1", "café", "x")],
      options={"encoding": "cp1252", "header_row": 2}),
    C("cp1252, packed", "a.csv.gz", packed(rows(job("1", "café", "x"), encoding="cp1252")), [job("1", "café", "x")], options={"encoding": "cp1252"}),
    C("cp1252, broken row", "a.csv", text(HEADER, f"1,{DAY},caf\udce9"), options={"encoding": "cp1252"}),
    C("UTF-16", "a.jsonl", lines(record(), encoding="utf-16")),
    C("UTF-16, named", "a.jsonl", lines(record(), encoding="utf-16"), [CHEF], options={"encoding": "utf-16"}),
    C("cp1252", "a.jsonl", text('{"record_id": "1", "occp_text": "caf\udce9"}')),
    C("encoding of a workbook", "a.xlsx", excel(EXCEL_CHEF), options={"encoding": "cp1252"}),
]

OTHER_TEXT = [
    C("plain", "a.tsv", rows(CHEF, delimiter="\t"), [CHEF]),
    C("commas in a name", "a.tsv", rows(CHEF, names=("record_id", "response_date", "a,b,c,d,e", "tasks_text"), delimiter="\t"), [CHEF],
      columns={"occp_text": "a,b,c,d,e"}),
    C("not tabs", "a.tsv", rows(CHEF)),
    C("tabs", "a.txt", rows(CHEF, delimiter="\t"), [CHEF]),
    C("semicolons", "a.txt", rows(CHEF, delimiter=";"), [CHEF]),
    C("prose", "a.txt", text("x")),
    C("packed", "a.csv.gz", packed(rows(CHEF, NURSE)), BOTH),
    C("packed", "a.tsv.gz", packed(rows(CHEF, delimiter="\t")), [CHEF]),
    C("packed", "a.txt.gz", packed(rows(CHEF, delimiter="|")), [CHEF]),
    C("packed in capitals", "A.CSV.GZ", packed(rows(CHEF)), [CHEF]),
    C("packed, but empty", "a.csv.gz", packed(text())),
    C("empty", "a.csv.gz", raw(b"")),
    C("not packed", "a.csv.gz", rows(CHEF)),
    C("cut", "a.csv.gz", lambda path: (packed(rows(CHEF))(path), path.write_bytes(path.read_bytes()[:-9]))),
    C("packed twice", "a.csv.gz", packed(packed(rows(CHEF)))),
    C("packed, no tasks", "a.csv.gz", packed(rows(CHEF[:3], names=NAMES[:3])), [job("1", "chef", None)], columns=NO_TASKS),
]

JSON = [
    C("plain", "a.jsonl", lines(record(), record(*NURSE)), BOTH),
    C("plain", "a.ndjson", lines(record()), [CHEF]),
    C("packed", "a.jsonl.gz", packed(lines(record(), record(*NURSE))), BOTH),
    C("blank lines", "a.jsonl", lines("", record(), "", ""), [CHEF]),
    C("byte order mark", "a.jsonl", lines(record(), encoding="utf-8-sig"), [CHEF]),
    C("other members", "a.jsonl", lines({**record(), "age": 30, "deep": {"a": [1]}}), [CHEF]),
    C("missing member", "a.jsonl", lines(record(), {"record_id": "2", "response_date": DAY}), [CHEF, job("2", None, None)]),
    C("long number", "a.jsonl", lines('{"record_id":12345678901234567890123,"response_date":"2026-10-05","occp_text":"chef","tasks_text":""}')),
    C("number as id", "a.jsonl", lines(record(record_id=7)), [job("7", "chef", "cooks")]),
    C("fraction as id", "a.jsonl", lines(record(record_id=1.0))),
    C("no tasks", "a.jsonl", lines({"record_id": "1", "response_date": DAY, "occp_text": "chef"})),
    C("no tasks, said", "a.jsonl", lines({"record_id": "1", "response_date": DAY, "occp_text": "chef"}), [job("1", "chef", None)], columns=NO_TASKS),
    C("no id, said", "a.jsonl", lines(record(), record(*NURSE)), BOTH, columns=NO_ID),
    C("other case", "a.jsonl", lines({"Record_Id": "1", "response_date": DAY, "occp_text": "chef", "tasks_text": "x"})),
    C("list as text", "a.jsonl", lines(record(tasks_text=["a"]))),
    C("number and text", "a.jsonl", lines(record(tasks_text=12), record(*NURSE)), [job("1", "chef", "12"), NURSE]),
    C("number as date", "a.jsonl", lines(record(response_date=1759622400))),
    C("blank date", "a.jsonl", lines(record(), record("2", "", "nurse", "x")), [CHEF], snapshot={"undated": 1}),
    C("array in a line", "a.jsonl", text('[{"record_id": "1"}]')),
    C("object over several lines", "a.jsonl", text("{", '"record_id": "1"', "}")),
    C("name twice", "a.jsonl", lines('{"record_id":"1","record_id":"2","response_date":"2026-10-05","occp_text":"chef","tasks_text":""}')),
    C("cut", "a.jsonl", lines(record(), '{"record_id": "2", "resp')),
    C("empty", "a.jsonl", text()),
    C("only blank lines", "a.jsonl", text("", "")),
    C("header row", "a.jsonl", lines(record()), options={"header_row": 2}),
    C("delimiter", "a.jsonl", lines(record()), options={"delimiter": ";"}),
    C("array", "a.json", text("[", '{"record_id": "1", "response_date": "2026-10-05", "occp_text": "chef", "tasks_text": "cooks"},', "{",
      '"record_id": "2",', '"response_date": "2026-10-05", "occp_text": "nurse", "tasks_text": "cares"}', "]"), BOTH),
    C("array in a line", "a.json", text('[{"record_id":"1","response_date":"2026-10-05","occp_text":"chef","tasks_text":"cooks"}]', last=False), [CHEF]),
    C("array, packed", "a.json.gz", packed(text('[{"record_id":"1","response_date":"2026-10-05","occp_text":"chef","tasks_text":"cooks"}]')), [CHEF]),
    C("array, UTF-16, named", "a.json", text('[{"record_id":"1","response_date":"2026-10-05","occp_text":"chef","tasks_text":"cooks"}]', encoding="utf-16"),
      [CHEF], options={"encoding": "utf-16"}),
    C("array, brackets in a text", "a.json", text('[{"record_id":"1","response_date":"2026-10-05","occp_text":"a]}, {\\"b","tasks_text":"cooks"}]'),
      [job("1", 'a]}, {"b', "cooks")]),
    C("empty array", "a.json", text("[]")),
    C("empty", "a.json", text()),
    C("lines", "a.json", lines(record(), record(*NURSE))),
    C("text", "a.json", text('"x"')),
    C("numbers in an array", "a.json", text("[1, 2]")),
    C("array that is cut", "a.json", text('[{"record_id": "1"}, {"record_id": "2"')),
    C("array without a comma", "a.json", text('[{"record_id": "1"} {"record_id": "2"}]')),
    C("text after an array", "a.json", text('[{"record_id": "1"}] x')),
    C("deep array", "a.json", text('[{"a": ' + "[" * 50_000 + "]" * 50_000 + "}]")),
    C("array, name twice", "a.json", text('[{"record_id":"1","record_id":"2","response_date":"2026-10-05","occp_text":"chef","tasks_text":""}]')),
    C("array, date not readable", "a.json", text('[{"record_id":"1","response_date":"05/10/2026","occp_text":"chef","tasks_text":""}]')),
    C("array, other encoding", "a.json", text('[{"record_id": "caf\udce9"}]')),
]

EXCEL = [
    C("plain", "a.xlsx", excel(EXCEL_CHEF, EXCEL_NURSE), BOTH),
    C("id as text with zeros", "a.xlsx", excel(("007", *X)), [job("007", "chef", "cooks")]),
    C("id as number", "a.xlsx", excel((7, *X), (1234567890123456, *X)), [job("1234567890123456", "chef", "cooks"), job("7", "chef", "cooks")]),
    C("id that is too long", "a.xlsx", excel((12345678901234567890, *X))),
    C("id with a fraction", "a.xlsx", excel((12.5, *X)), [job("12.5", "chef", "cooks")]),
    C("id as truth value", "a.xlsx", excel((True, *X)), [job("True", "chef", "cooks")]),
    C("id as date", "a.xlsx", excel((CELL_DAY, *X)), [job(DAY, "chef", "cooks")]),
    C("id as duration", "a.xlsx", excel((timedelta(hours=30), *X)), [job("1 day, 6:00:00", "chef", "cooks")]),
    C("date with a time", "a.xlsx", excel(("1", datetime(2026, 10, 5, 23, 59, 59), "chef", "cooks")), [CHEF]),
    C("date shown with its day first", "a.xlsx", excel(EXCEL_CHEF, edit=edit_cell("B2", number_format="dd/mm/yyyy")), [CHEF]),
    C("dates counted from 1904", "a.xlsx", excel(EXCEL_CHEF, edit=count_days_from_1904), [CHEF]),
    C("number as date", "a.xlsx", excel(("1", 46300, "chef", "cooks"))),
    C("digits as date", "a.xlsx", excel(("1", 20261005, "chef", "cooks"))),
    C("text as date", "a.xlsx", excel(("1", DAY, "chef", "cooks")), [CHEF]),
    C("text with its day first", "a.xlsx", excel(("1", "05/10/2026", "chef", "cooks"))),
    C("text with its day first, named", "a.xlsx", excel(("1", "05/10/2026", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%Y"}),
    C("dates and texts, named", "a.xlsx", excel(("1", "05/10/2026", "chef", "cooks"), EXCEL_NURSE), BOTH, options={"date_format": "%d/%m/%Y"}),
    C("dates that look like another day, named", "a.xlsx", excel(("1", datetime(2026, 10, 5), "chef", "cooks")), [CHEF], options={"date_format": "%Y-%d-%m"}),
    C("one other date", "a.xlsx", excel(EXCEL_CHEF, ("2", "06.10.2026", "nurse", "x")), [CHEF], plan={"max_rejected_share": 0.5},
      snapshot={"unreadable_dates": 1}),
    C("error as text", "a.xlsx", excel(EXCEL_CHEF, edit=edit_cell("C2", "#N/A", data_type="e")), [job("1", None, "cooks")]),
    C("error as date", "a.xlsx", excel(EXCEL_CHEF, EXCEL_NURSE, edit=edit_cell("B2", "#N/A", data_type="e")), [NURSE], snapshot={"undated": 1}),
    C("formula without a result", "a.xlsx", excel(("1", CELL_DAY, "=A1", "cooks")), [job("1", None, "cooks")]),
    C("blank rows inside", "a.xlsx", excel(EXCEL_CHEF, [], [], EXCEL_NURSE), BOTH, snapshot={"empty_rows": 2}),
    C("formatted empty rows", "a.xlsx", excel(EXCEL_CHEF, edit=format_empty_rows), [CHEF]),
    C("a total far below", "a.xlsx", excel(EXCEL_CHEF, [], [], (None, None, None, "Total: 1")), [CHEF], snapshot={"empty_rows": 2, "undated": 1}),
    C("line break", "a.xlsx", excel(("1", CELL_DAY, "chef\nhead", "x")), [job("1", "chef\nhead", "x")]),
    C("spaces kept", "a.xlsx", excel(("1", CELL_DAY, " chef ", "x")), [job("1", " chef ", "x")]),
    C("number as text", "a.xlsx", excel(("1", CELL_DAY, "chef", 5)), [job("1", "chef", "5")]),
    C("names that are numbers", "a.xlsx", excel(EXCEL_CHEF, names=("record_id", "response_date", 1, 2)), [CHEF],
      columns={"occp_text": "1", "tasks_text": "2"}),
    C("spaces in names", "a.xlsx", excel(EXCEL_CHEF, names=("record_id", "response_date", "occp_text ", "tasks_text\n"))),
    C("other case twice", "a.xlsx", excel(("A", "1", *X), names=("ID", "id", *NAMES[1:])), [CHEF], columns={"record_id": "id"}),
    C("name twice", "a.xlsx", excel((*EXCEL_CHEF, "x"), names=(*NAMES, "occp_text"))),
    C("no tasks, said", "a.xlsx", excel(EXCEL_CHEF[:3], names=NAMES[:3]), [job("1", "chef", None)], columns=NO_TASKS),
    C("no id, said", "a.xlsx", excel(X, [], X, names=NAMES[1:]), [job("1", "chef", "cooks"), job("3", "chef", "cooks")],
      columns=NO_ID, snapshot={"empty_rows": 1}),
    C("no date, one for all", "a.xlsx", excel(("1", "chef", "cooks"), names=UNDATED), [CHEF], plan=ONE_DAY),
    C("table not in the first column", "a.xlsx", excel((None, *EXCEL_CHEF), names=(None, *NAMES)), [CHEF]),
    C("title row", "a.xlsx", excel(EXCEL_CHEF, above=[["Survey of workers"], []])),
    C("title row, named", "a.xlsx", excel(EXCEL_CHEF, above=[["Survey of workers"], []]), [CHEF], options={"header_row": 3}),
    C("merged title", "a.xlsx", excel(EXCEL_CHEF, above=[["Person"]], edit=merge_title)),
    C("merged title, named", "a.xlsx", excel(EXCEL_CHEF, above=[["Person"]], edit=merge_title), [CHEF], options={"header_row": 2}),
    C("blank rows above", "a.xlsx", excel(EXCEL_CHEF, above=[[], []])),
    C("header row beyond the end", "a.xlsx", excel(EXCEL_CHEF), options={"header_row": 9}),
    C("second sheet", "a.xlsx", sheets(("Notes", [["Notes"], ["ours"]]), ("Data", [NAMES, EXCEL_CHEF]))),
    C("second sheet, named", "a.xlsx", sheets(("Notes", [["Notes"], ["ours"]]), ("Data", [NAMES, EXCEL_CHEF])), [CHEF], options={"sheet": "Data"}),
    C("second sheet, numbered", "a.xlsx", sheets(("Notes", [["Notes"]]), ("Data", [NAMES, EXCEL_CHEF])), [CHEF], options={"sheet": 2}),
    C("second sheet of the same columns", "a.xlsx", sheets(("Oct", [NAMES, EXCEL_CHEF]), ("Nov", [NAMES, EXCEL_NURSE]))),
    C("first of two sheets, named", "a.xlsx", sheets(("Oct", [NAMES, EXCEL_CHEF]), ("Nov", [NAMES, EXCEL_NURSE])), [CHEF], options={"sheet": "Oct"}),
    C("hidden sheet of the same columns", "a.xlsx", sheets(("Old", [NAMES, EXCEL_CHEF]), ("New", [NAMES, EXCEL_NURSE]), edit=hide_first_sheet)),
    C("sheet with a number as name", "a.xlsx", sheets(("2026", [NAMES, EXCEL_CHEF]), ("x", [["y"]])), [CHEF], options={"sheet": "2026"}),
    C("no such sheet", "a.xlsx", sheets(("Notes", [["x"]]), ("Data", [NAMES, EXCEL_CHEF])), options={"sheet": "Dta"}),
    C("no such number", "a.xlsx", excel(EXCEL_CHEF), options={"sheet": 3}),
    C("first sheet is empty", "a.xlsx", sheets(("Empty", []), ("Data", [NAMES, EXCEL_CHEF]))),
    C("only an empty sheet", "a.xlsx", sheets([])),
    C("empty second sheet", "a.xlsx", sheets(("Data", [NAMES, EXCEL_CHEF]), ("Empty", [])), [CHEF]),
    C("title row and second sheet", "a.xlsx", sheets(("Notes", [["x"]]), ("Data", [["Title"], NAMES, EXCEL_CHEF])), [CHEF],
      options={"sheet": "Data", "header_row": 2}),
    C("title row in the second sheet", "a.xlsx", sheets(("Notes", [["x"]]), ("Data", [["Title"], NAMES, EXCEL_CHEF]))),
    C("second sheet of the same columns below a title", "a.xlsx", sheets(("Oct", [NAMES, EXCEL_CHEF]), ("Nov", [["Title"], NAMES, EXCEL_NURSE]))),
    C("three sheets", "a.xlsx", sheets(("Notes", [["x"]]), ("Oct", [NAMES, EXCEL_CHEF]), ("Nov", [NAMES, EXCEL_NURSE]))),
    C("chart first", "a.xlsx", sheets(("Chart", None), ("Data", [NAMES, EXCEL_CHEF])), [CHEF]),
    C("chart, named", "a.xlsx", sheets(("Chart", None), ("Data", [NAMES, EXCEL_CHEF])), options={"sheet": "Chart"}),
    C("chart, numbered", "a.xlsx", sheets(("Chart", None), ("Data", [NAMES, EXCEL_CHEF])), options={"sheet": 1}),
    C("delimiter", "a.xlsx", excel(EXCEL_CHEF), options={"delimiter": ";"}),
    C("empty", "a.xlsx", raw(b"")),
    C("text", "a.xlsx", rows(CHEF)),
    C("old workbook", "a.xlsx", raw(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512))),
    C("cut", "a.xlsx", lambda path: (excel(EXCEL_CHEF)(path), path.write_bytes(path.read_bytes()[:-100]))),
]

DATE = pa.array([date(2026, 10, 5)])
PARQUET = [
    C("texts as dates", "a.parquet", table(CHEF), [CHEF]),
    C("dates", "a.parquet", table(CHEF, response_date=DATE), [CHEF]),
    C("times", "a.parquet", table(CHEF, response_date=pa.array([datetime(2026, 10, 5, 23)])), [CHEF]),
    C("times with a zone", "a.parquet", table(CHEF, response_date=pa.array([datetime(2026, 10, 4, 20)], pa.timestamp("us", "UTC"))), [CHEF]),
    C("times with a zone, another one named", "a.parquet", table(CHEF, response_date=pa.array([datetime(2026, 10, 5, 20)], pa.timestamp("us", "UTC"))),
      [CHEF], options={"timezone": "UTC"}),
    C("dictionary", "a.parquet", table(CHEF, occp_text=pa.array(["chef"]).dictionary_encode()), [CHEF]),
    C("bytes of old Spark", "a.parquet", table(CHEF, occp_text=pa.array([b"chef"])), [CHEF]),
    C("decimal id", "a.parquet", table(CHEF, record_id=pa.array([Decimal(1)], pa.decimal128(18, 0))), [CHEF]),
    C("fraction as id", "a.parquet", table(CHEF, record_id=pa.array([1.0]))),
    C("column without values", "a.parquet", table(CHEF, tasks_text=pa.nulls(1)), [job("1", "chef", None)]),
    C("no tasks", "a.parquet", table(CHEF[:3], names=NAMES[:3])),
    C("no tasks, said", "a.parquet", table(CHEF[:3], names=NAMES[:3]), [job("1", "chef", None)], columns=NO_TASKS),
    C("no id, said", "a.parquet", table(CHEF[1:], NURSE[1:], names=NAMES[1:]), BOTH, columns=NO_ID),
    C("dates with their day first, named", "a.parquet", table(("1", "05.10.2026 10:11:12", "chef", "cooks")), [CHEF],
      options={"date_format": "%d.%m.%Y %H:%M:%S"}),
    C("empty", "a.parquet", raw(b"")),
    C("text", "a.parquet", rows(CHEF)),
    C("encoding", "a.parquet", table(CHEF), options={"encoding": "cp1252"}),
    C("folder", "a", lambda path: (table(CHEF)(path / "1.parquet"), table(NURSE)(path / "2.parquet")), BOTH),
    C("folder with the ending of a file", "a.parquet", lambda path: table(CHEF)(path / "part-0.parquet"), [CHEF]),
    C("folder of folders", "a", lambda path: (table(CHEF)(path / "x" / "1.parquet"), table(NURSE)(path / "y" / "1.parquet")), BOTH),
    C("folder of Spark", "a", lambda path: (table(CHEF)(path / "1.parquet"), (path / "_SUCCESS").touch(), (path / ".x.crc").touch()), [CHEF]),
    C("folder, no id, said", "a", lambda path: (table(CHEF[1:], names=NAMES[1:])(path / "1.parquet"), table(NURSE[1:], names=NAMES[1:])(path / "2.parquet")),
      BOTH, columns=NO_ID),
    C("folder, date not readable", "a", lambda path: (table(CHEF)(path / "1.parquet"), table(("2", "05/10/2026", "x", ""))(path / "2.parquet")),
      [CHEF], plan={"max_rejected_share": 1.0}, snapshot={"unreadable_dates": 1, "unreadable_examples": ("row 1 of '2.parquet': '99/99/9999'",)}),
    C("pattern", "*.parquet", lambda path: (table(CHEF)(path.parent / "1.parquet"), table(NURSE)(path.parent / "2.parquet"), rows(CHEF)(path.parent / "x.csv")), BOTH),
    C("pattern without a match", "*.parquet", lambda path: None),
    C("pattern of other files", "*.csv", lambda path: rows(CHEF)(path.parent / "1.csv")),
    C("empty folder", "a", lambda path: path.mkdir()),
    C("folder with another file", "a", lambda path: (table(CHEF)(path / "1.parquet"), rows(CHEF)(path / "2.csv"))),
    C("folder whose files differ", "a", lambda path: (table(CHEF)(path / "1.parquet"), table(NURSE[:3], names=NAMES[:3])(path / "2.parquet"))),
    C("folder whose types differ", "a", lambda path: (table(CHEF)(path / "1.parquet"), table(NURSE, response_date=DATE)(path / "2.parquet"))),
    C("folder with a broken file", "a", lambda path: (table(CHEF)(path / "1.parquet"), raw(b"PAR1")(path / "2.parquet"))),
    C("folder with an empty file", "a", lambda path: (table(CHEF)(path / "1.parquet"), raw(b"")(path / "2.parquet"))),
    C("folders with values", "a", lambda path: table(CHEF)(path / "response_date=2026-10-05" / "1.parquet")),
]

DATES = [
    C("day first", "a.csv", rows(("1", "05/10/2026", "chef", "cooks"))),
    C("day first, named", "a.csv", rows(("1", "05/10/2026", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%Y"}),
    C("month first, named", "a.csv", rows(("1", "10/05/2026", "chef", "cooks")), [CHEF], options={"date_format": "%m/%d/%Y"}),
    C("one digit, named", "a.csv", rows(("1", "5/10/2026", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%Y"}),
    C("spaces, named", "a.csv", rows(("1", " 05/10/2026 ", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%Y"}),
    C("with a time, named", "a.csv", rows(("1", "05.10.2026 23:59:59", "chef", "cooks")), [CHEF], options={"date_format": "%d.%m.%Y %H:%M:%S"}),
    C("with am and pm, named", "a.csv", rows(("1", "2026-10-05 11:02:03 PM", "chef", "cooks")), [CHEF], options={"date_format": "%Y-%m-%d %I:%M:%S %p"}),
    C("name of a month, named", "a.csv", rows(("1", "05-Oct-2026", "chef", "cooks")), [CHEF], options={"date_format": "%d-%b-%Y"}),
    C("two digits, named", "a.csv", rows(("1", "05/10/26", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%y"}),
    C("digits, named", "a.csv", rows(("1", "20261005", "chef", "cooks")), [CHEF], options={"date_format": "%Y%m%d"}),
    C("two digits where four are named", "a.csv", rows(("1", "05/10/26", "chef", "cooks")), options={"date_format": "%d/%m/%Y"}),
    C("another form than is named", "a.csv", rows(CHEF, ("2", "05/10/2026", "x", "")), options={"date_format": "%d/%m/%Y"}, plan={"max_rejected_share": 0.4}),
    C("a date that is none in the form", "a.csv", rows(("1", "31/11/2026", "chef", "cooks")), options={"date_format": "%d/%m/%Y"}),
    C("offset, named", "a.csv", rows(("1", "04/10/2026 20:00 +0000", "chef", "cooks")), [CHEF], options={"date_format": "%d/%m/%Y %H:%M %z"}),
    C("two digits", "a.csv", rows(("1", "05/10/26", "chef", "cooks"))),
    C("am and pm", "a.csv", rows(("1", "2026-10-05 11:02:03 PM", "chef", "cooks"))),
    C("month as a word", "a.csv", rows(("1", "05-Oct-2026", "chef", "cooks"))),
    C("NA", "a.csv", rows(CHEF, ("2", "NA", "nurse", "")), [CHEF], plan={"max_rejected_share": 0.5}, snapshot={"unreadable_dates": 1}),
    C("Z", "a.csv", rows(("1", "2026-10-04T20:00:00Z", "chef", "cooks")), [CHEF]),
    C("Z in the zone of the file", "a.csv", rows(("1", "2026-10-05T20:00:00Z", "chef", "cooks")), [CHEF], options={"timezone": "UTC"}),
    C("UTC", "a.csv", rows(("1", "2026-10-04 20:00:00 UTC", "chef", "cooks")), [CHEF]),
    C("offset with a colon", "a.csv", rows(("1", "2026-10-05 00:30:00+11:00", "chef", "cooks")), [CHEF]),
    C("offset without a colon", "a.csv", rows(("1", "2026-10-05T00:30:00.123+1100", "chef", "cooks")), [CHEF]),
    C("offset of hours", "a.csv", rows(("1", "2026-10-04 20:00:00+00", "chef", "cooks")), [CHEF]),
    C("offset without seconds", "a.csv", rows(("1", "2026-10-04T20:00+00:00", "chef", "cooks")), [CHEF]),
    C("before the clock changes", "a.csv", rows(("1", "2026-10-03T13:59:59Z", "a", ""), ("2", "2026-10-03T14:00:00Z", "b", "")),
      [("2", "2026-10-04", "b", None)], plan={"from_date": "2026-10-04"}),
    C("offset of no time", "a.csv", rows(("1", "2026-10-05T25:00:00Z", "chef", "cooks"))),
    C("name of a zone", "a.csv", rows(("1", "2026-10-05 10:00:00 Australia/Sydney", "chef", "cooks"))),
    C("Z", "a.jsonl", lines(record(response_date="2026-10-04T20:00:00Z")), [CHEF]),
    C("day first, named", "a.jsonl", lines(record(response_date="05/10/2026")), [CHEF], options={"date_format": "%d/%m/%Y"}),
    C("day first", "a.jsonl", lines(record(response_date="05/10/2026"))),
]

TYPES = [
    C("other program", f"a{ending}", raw(b"x"))
    for ending in (".xls", ".xlsb", ".xlsm", ".ods", ".dta", ".sav", ".sas7bdat", ".rds", ".zip", ".feather", ".docx", "")
] + [C("missing", "a.csv", lambda path: None), C("Parquet in gzip", "a.parquet.gz", raw(b"x")), C("workbook in gzip", "a.xlsx.gz", raw(b"x"))]

CASES = [*CSV, *ENCODINGS, *OTHER_TEXT, *JSON, *EXCEL, *PARQUET, *DATES, *TYPES]
