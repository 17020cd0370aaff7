"""The report of a run: counts that a person can check, and no texts of respondents."""

import json
from html.parser import HTMLParser

import pytest

from include.coding.errors import IncompleteError
from include.coding.files import path_from_uri
from include.coding.landing import LandingSummary
from include.coding.report import write_report
from tests.coding.conftest import CHEF, DAY, NEXT_DAY, code_line, on_all_warehouses, on_duckdb_and_postgres

RECORDS = [
    ("1", DAY, "secret chef", "cooks"),
    ("2", DAY, "secret chef", "cooks"),
    ("3", NEXT_DAY, "secret baker", ""),
    ("4", NEXT_DAY, "", None),
    (None, NEXT_DAY, "nurse", ""),
    ("6", None, "nurse", ""),
]
TRADES = {**CHEF, "codeCategory": "3", "codeLabel": "Trades", "codeConfidence": 0.5}


def code_some(line):
    return code_line(line, result=CHEF if line["occp_text"] == "secret chef" else None)


@pytest.fixture
def report(pipeline):
    """A function that lands the records and returns the text of the report."""

    def write(code=code_some, rows=RECORDS, **changes):
        pipeline.fill(*rows)
        summary = pipeline.run(code=code, **changes)
        uri = write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)
        return path_from_uri(uri).with_suffix(".md").read_text(encoding="utf-8")

    return write


def read_table(text, title):
    """Return the cells of the table in one section, or its text if it has no table."""
    section = text.split(f"## {title}\n\n")[1].split("\n\n")[0].strip()
    rows = section.splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] if rows else section


def test_the_summary_names_the_run_and_counts_the_outcomes(report, pipeline):
    text = report()
    assert text.startswith(
        f"# Occupation coding, {DAY} to {NEXT_DAY}\n\nTopic `osca`, model `{pipeline.plan.model_id}`"
    )
    assert "source `survey_responses`, run `run-1`." in text
    assert "- Records read: 5: 2 coded, 1 uncoded, 2 rejected (1 blank, 1 no_record_id).\n" in text
    assert "- Distinct texts: 2; coded earlier by this model: 0; sent: 2 in 1 operations.\n" in text
    assert "- Records of the source without a date, which no run codes: 1." in text


def test_the_report_names_the_rows_that_no_run_codes_whatever_the_dates_of_the_run(report, tmp_path):
    rows = [f"1,{DAY},secret chef,", f"2,{DAY},secret chef,", "3,05/10/26,secret chef,", ",,,"]
    (tmp_path / "a.csv").write_text("\n".join(["record_id,response_date,occp_text,tasks_text", *rows]))
    source = (tmp_path / "a.csv").as_uri()
    for run_id, day in (("run-1", DAY), ("run-2", NEXT_DAY)):
        text = report(source=source, run_id=run_id, from_date=day, to_date=day)
        assert (
            "- Records in the whole source with a date that cannot be read: 1 (such as line 4: '99/99/99')." in text
        )
        assert "They can belong to any day, and no run codes them until they are corrected." in text
        assert "- Rows in the whole source without any value in the needed columns, which are no records: 1." in text
        assert "secret" not in text


def test_a_run_that_is_not_recorded_as_published_has_no_report(report, pipeline):
    report()
    pipeline.query("DELETE FROM coding.coding_runs")
    summary = LandingSummary(5, 2, 1, 2, 2, 2, 1, DAY, NEXT_DAY, None)
    with pytest.raises(IncompleteError, match=r"run 'run-1' is not recorded as published, .*clear 'land'"):
        write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)


@on_all_warehouses
def test_the_tables_count_outcomes_reasons_levels_and_codes(report):
    text = report(code=lambda line: code_line(line, result=CHEF if "chef" in line["occp_text"] else TRADES))
    assert read_table(text, "Outcomes") == [["coded", "3", "60.0%"], ["rejected", "2", "40.0%"]]
    reasons = read_table(text, "Why records were rejected or not answered")
    assert reasons == [["blank", "1", "50.0%"], ["no_record_id", "1", "50.0%"]]
    assert read_table(text, "Levels of the codes (digits)") == [
        ["6", "2", "66.7%", "0.92"],
        ["1", "1", "33.3%", "0.5"],
    ]
    assert read_table(text, "Most frequent codes") == [["351311", "Chef", "2", "0.92"], ["3", "Trades", "1", "0.5"]]


def test_the_report_contains_no_texts_of_respondents(report):
    assert "secret" not in report()


def test_the_report_of_a_run_without_records_says_so(report):
    text = report(from_date="2026-01-01", to_date="2026-01-01")
    assert "Nothing was sent: the source has no records of these dates." in text
    assert read_table(text, "Outcomes") == "None."


def test_the_report_explains_why_nothing_was_sent(report, pipeline):
    pipeline.fill(*RECORDS)
    pipeline.run()
    text = report(rows=[("9", DAY, "secret chef", "cooks")], run_id="run-2")
    assert "coded earlier by this model: 2; sent: 0 in 0 operations. Nothing was sent: every text is coded" in text
    text = report(rows=[], run_id="run-3")
    assert "Nothing was sent or written: run `run-2` has already published exactly these records." in text


@on_duckdb_and_postgres
def test_only_rows_of_the_run_are_counted(report, pipeline):
    pipeline.fill(("9", "2026-10-01", "nurse", ""))
    pipeline.run(run_id="run-0", from_date="2026-10-01", to_date="2026-10-01")
    pipeline.run(run_id="run-0-other", topic="anzsco", from_date="2026-10-01", to_date=NEXT_DAY)
    outcomes = read_table(report(), "Outcomes")
    assert outcomes == [["coded", "2", "40.0%"], ["rejected", "2", "40.0%"], ["uncoded", "1", "20.0%"]]


@on_duckdb_and_postgres
def test_a_label_can_be_no_markup_and_a_confidence_can_have_any_size(report):
    label = "<img src=x onerror=alert(1)> | [a](javascript:b) `c` " + "x" * 500
    result = {**CHEF, "codeLabel": label, "codeConfidence": 1.7e308}
    rows = [(str(number), DAY, f"secret chef {number}", "") for number in range(3)]
    text = report(code=lambda line: code_line(line, result=result), rows=rows)
    ((code, shown_label, records, mean),) = read_table(text, "Most frequent codes")
    assert (code, records, mean) == ("351311", "3", "")
    assert shown_label.startswith(
        "&#60;img src=x onerror=alert(1)&#62; &#124; &#91;a&#93;(javascript:b) &#96;c&#96; x"
    )
    assert shown_label.endswith("x…")
    assert "**3 codes have a confidence outside 0 to 1; it is stored as the service gave it.**" in text


# ---- HTML and JSON ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What an HTML page shows: its tables by title, its facts, its elements, and its text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.elements, self.facts, self.text = {}, [], [], ""
        self._open, self._title = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag != "meta" and tag != "rect":
            self._open.append(tag)
        if tag == "h2":
            self._title = ""
        if tag == "table":
            self.tables[self._title] = []
        if tag == "tr":
            self.tables[self._title].append([])
        if tag in ("th", "td"):
            self.tables[self._title][-1].append("")
        if tag in ("dt", "dd"):
            self.facts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        if tag == "h2":
            self._title += data
        elif tag in ("th", "td"):
            self.tables[self._title][-1][-1] += data
        elif tag in ("dt", "dd"):
            self.facts[-1] += data
        if tag != "style":
            self.text += data


@pytest.fixture
def page(pipeline):
    """A function that lands the records and returns the report as a page and as JSON."""

    def write(code=code_some, rows=RECORDS, with_texts=False, **changes):
        pipeline.fill(*rows)
        summary = pipeline.run(code=code, **changes)
        uri = write_report(
            pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging, with_texts=with_texts
        )
        path = path_from_uri(uri)
        assert path.name == "report.html"
        return Page(path.read_text(encoding="utf-8")), json.loads(path.with_suffix(".json").read_text())

    return write


def test_the_figures_of_the_page_equal_those_of_the_json(page, pipeline):
    pipeline.fill(*((str(number), "2026-10-01", "secret chef", "cooks") for number in range(3)))
    pipeline.run(run_id="run-0", from_date="2026-10-01", to_date="2026-10-01")
    html, data = page()
    facts = dict(zip(html.facts[::2], html.facts[1::2], strict=True))
    assert data["facts"] == {
        "read": 5, "coded": 2, "uncoded": 1, "rejected": 2, "coded_share": 0.4, "texts_sent": 1, "operations": 1,
    }  # fmt: skip
    assert list(facts.values()) == ["5", "2", "1", "2", "40.0%", "1", "1"]
    sections = {section["title"]: section for section in data["sections"] if section["rows"]}
    assert sections.keys() == html.tables.keys()
    for title, section in sections.items():
        headings, *rows = html.tables[title]
        assert headings == [column.replace("_", " ") for column in section["columns"]]
        for row, cells in zip(section["rows"], rows, strict=True):
            for column, value, cell in zip(section["columns"], row, cells, strict=True):
                number = cell.replace(",", "")
                if value is None:
                    assert cell == ""
                elif column.endswith("share"):
                    assert float(number.rstrip("%")) == pytest.approx(value * 100, abs=0.06)
                elif isinstance(value, int | float):
                    assert float(number) == pytest.approx(value, abs=0.001)
                else:
                    assert cell == value
    (before, own) = sections["The 14 response dates before"]["rows"]
    assert (before[0], before[2:7]) == ("2026-10-01", [3, 3, 0, 0, 1.0])
    assert (own[0], own[2:7]) == (f"{DAY} to {NEXT_DAY} (this run)", [5, 2, 1, 2, 0.4])
    assert "coded: 40.0%; in the 1 dates before that have records: 100.0%." in html.text


def test_bars_are_as_long_as_the_shares_and_the_page_loads_nothing(page):
    html, data = page()
    lengths = [attributes["style"] for _, attributes in html.elements if "bar" in attributes.get("class", "").split()]
    outcomes = next(section for section in data["sections"] if section["title"] == "Outcomes")
    assert [row[:3] for row in outcomes["rows"]] == [["coded", 2, 0.4], ["rejected", 2, 0.4], ["uncoded", 1, 0.2]]
    assert lengths[:3] == ["--length: 0.4", "--length: 0.4", "--length: 0.2"]
    names = [attributes["id"] for _, attributes in html.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert not {"script", "img", "link", "iframe", "a"} & {tag for tag, _ in html.elements}
    assert not [name for _, attributes in html.elements for name in attributes if name in ("src", "href")]


def test_hostile_labels_and_run_ids_are_shown_as_text(page):
    label = "</td></svg><script>alert(1)</script> `x` **y**"
    html, data = page(
        code=lambda line: code_line(line, result={**CHEF, "codeLabel": label}), run_id="<script>alert(2)</script>"
    )
    assert "script" not in {tag for tag, _ in html.elements}
    assert "<script>alert(2)</script>" in html.text
    assert html.tables["Most frequent codes"][1][1] == label
    assert label in json.dumps(data)


def test_texts_without_a_code_are_counted_and_shown_only_if_the_setting_allows_it_and_never_logged(page, caplog):
    caplog.set_level("DEBUG")
    rows = [*RECORDS, ("7", DAY, "secret baker", ""), ("8", DAY, "secret smith <b>", "")]
    html, data = page(rows=rows, max_uncoded_share=1.0)
    title = "Most frequent occupations without a code"
    assert [row[1:] for row in html.tables[title]] == [["records", "share"], ["2", "66.7%"], ["1", "33.3%"]]
    assert "secret" not in html.text + json.dumps(data)
    html, _ = page(rows=[], with_texts=True, run_id="run-2", max_uncoded_share=1.0)
    assert [row[1] + " " + row[3] for row in html.tables[title][1:]] == ["2 secret baker", "1 secret smith <b>"]
    assert "secret" not in caplog.text
