"""The params `read_options` and `columns`: what a plan accepts, and the sentence with which it refuses the rest."""

import re

import pytest

from include.coding.errors import PlanError
from include.coding.plan import Plan
from include.coding.read_options import NAMES, SCHEMA, ReadOptions
from tests.coding.conftest import DAY, make_plan

KNOWN = "it can name ['sheet', 'header_row', 'delimiter', 'encoding', 'date_format', 'timezone', 'connection']"


def refuse(options):
    with pytest.raises(PlanError) as excinfo:
        make_plan(read_options=options)
    return str(excinfo.value)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"shet": 1}, "'shet' (did you mean 'sheet'?)"),
        ({"Sheet": 1}, "'Sheet' (did you mean 'sheet'?)"),
        ({"sheet": 1, "colour": 2, "skip": 3}, "'colour', 'skip'"),
        ({"x" * 300: 1}, repr("x" * 60)),
    ],
)
def test_unknown_options_are_refused_with_the_list_of_known_ones(options, names):
    assert refuse(options) == f"`read_options` names {names}; {KNOWN}"


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        {"sheet": "Data"},
        {"sheet": 2},
        {"sheet": None, "header_row": None},
        {"header_row": 5, "delimiter": "\t"},
        {"delimiter": ";", "encoding": "cp1252"},
        {"encoding": "latin-1"},
        {"encoding": "UTF-16"},
        {"date_format": "%d/%m/%Y", "timezone": "Europe/London"},
        {"date_format": "%d.%m.%Y %H:%M:%S"},
        {"date_format": "%Y%j"},
        {"date_format": "%d %B %y, 100%%"},
        {"date_format": "%m/%d/%Y %I:%M %p"},
        {"connection": "survey_bucket"},
    ],
)
def test_options_pass_through_the_plan(options):
    plan = make_plan(read_options=options)
    expected = {name: value for name, value in (options or {}).items() if value is not None}
    assert {name: getattr(plan.read_options, name) for name in plan.read_options.names} == expected
    assert Plan.from_dict(plan.to_dict(), task="plan") == plan


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"delimiter": ";;"}, "`delimiter` in `read_options` is ';;'; expected one character, such as ';'"),
        ({"delimiter": '"'}, "`delimiter` in `read_options` is '\"'; expected one character"),
        (
            {"encoding": "ansi-x"},
            "`encoding` in `read_options` is 'ansi-x'; expected the name of an encoding, such as",
        ),
        ({"encoding": "base64"}, "`encoding` in `read_options` is 'base64'; expected"),
        ({"encoding": "unicode_escape"}, "`encoding` in `read_options` is 'unicode_escape'; expected"),
        (
            {"date_format": "dd/mm/yyyy"},
            "`date_format` in `read_options` is 'dd/mm/yyyy'; expected a form with year,",
        ),
        ({"date_format": "%d/%m"}, "`date_format` in `read_options` is '%d/%m'; expected"),
        ({"date_format": "%d/%d/%Y"}, "`date_format` in `read_options` is '%d/%d/%Y'; expected"),
        ({"date_format": "%x"}, "`date_format` in `read_options` is '%x'; expected"),
        ({"date_format": "%d/%m/%Y %p"}, "`date_format` in `read_options` is '%d/%m/%Y %p'; expected"),
        ({"date_format": "%d/%m/%Y %y"}, "`date_format` in `read_options` is '%d/%m/%Y %y'; expected"),
        ({"timezone": "Sydney"}, "`timezone` in `read_options` is 'Sydney'"),
        (
            {"timezone": "Australia/Sidney"},
            "'Australia/Sidney' (did you mean 'Australia/Sydney'?); expected a name such",
        ),
        ({"timezone": "../../etc/passwd"}, "`timezone` in `read_options` is '../../etc/passwd'"),
        ({"header_row": 0}, "read_options.header_row: "),
        ({"header_row": "5"}, "read_options.header_row: "),
        ({"header_row": True}, "read_options.header_row: "),
        ({"header_row": 1.5}, "read_options.header_row: "),
        ({"sheet": 0}, "read_options.sheet"),
        ({"sheet": True}, "read_options.sheet"),
        ({"sheet": ["a"]}, "read_options.sheet"),
        ({"sheet": ""}, "read_options.sheet"),
        ({"encoding": 5}, "read_options.encoding: "),
        ([], "read_options: "),
        ("sheet", "read_options: "),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_a_sentence(options, sentence):
    assert sentence in refuse(options)


def test_a_message_about_a_wrong_type_does_not_quote_the_value():
    assert "secret" not in refuse({"header_row": "secret"})


def test_the_schema_of_the_form_has_every_option():
    assert tuple(SCHEMA) == NAMES
    assert all(option["description"] for option in SCHEMA.values())


def test_the_zone_of_the_options_comes_before_that_of_the_deployment():
    assert make_plan().zone == "UTC"
    assert make_plan(timezone="Australia/Sydney").zone == "Australia/Sydney"
    assert make_plan(timezone="Australia/Sydney", read_options={"timezone": "Asia/Tokyo"}).zone == "Asia/Tokyo"


@pytest.mark.parametrize("name", ["record_id", "occp_text", "tasks_text"])
def test_a_column_can_be_said_to_be_missing(name):
    plan = make_plan(columns={name: None})
    assert name not in plan.required_columns
    assert len(plan.required_columns) == 3
    assert Plan.from_dict(plan.to_dict(), task="plan") == plan


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"tasks_text": ""},
            "`columns` gives 'tasks_text' an empty name; write null for a column that the source does not",
        ),
        (
            {"occp_text": None, "tasks_text": None},
            "the source has neither 'occp_text' nor 'tasks_text', so there is nothing",
        ),
        ({"response_date": None}, "has no 'response_date': set the date of all its records in `response_date`"),
        ({"tasks": None}, "`columns` names 'tasks' (did you mean 'tasks_text'?)"),
    ],
)
def test_columns_that_make_no_sense_are_refused(columns, sentence):
    with pytest.raises(PlanError, match=re.escape(sentence)):
        make_plan(columns=columns)


def test_no_dates_can_be_said_beside_the_single_date():
    plan = make_plan(columns={"response_date": None}, response_date=DAY)
    assert plan.required_columns == ("record_id", "occp_text", "tasks_text")


def test_two_sheets_are_two_sources_where_runs_are_recorded():
    names = {make_plan(read_options=options).source_name for options in ({}, {"sheet": "Oct"}, {"sheet": "Nov"})}
    assert names == {"survey_responses", "survey_responses#sheet=Oct", "survey_responses#sheet=Nov"}


def test_options_without_a_value_are_the_default():
    assert make_plan(read_options={}).read_options == ReadOptions()
