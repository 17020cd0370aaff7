"""The command `python -m include.pipeline check` in processes of its own: what it shows, and its exit status."""

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import duckdb
import pytest

from bench.measure import read_peak_bytes
from coding_service.settings import ServiceSettings
from include.coding.estimate import CALLS_PER_SECOND, PREPARED_FIELDS
from include.coding.prepare import prepare
from include.coding.source_access import SourceAccess
from include.coding.staging import Staging
from tests.coding.conftest import make_plan
from tests.support.source_files import (
    CHEF,
    DAY,
    HEADER,
    NAMES,
    NURSE,
    excel,
    lines,
    packed,
    raw,
    record,
    rows,
    sheets,
    table,
    text,
)
from tests.support.warehouses import open_warehouse

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "include.pipeline", "check"]
#: A word that is in the texts of the files of these tests.
SECRET = "zebrafish"
DEADLINE_S = 600
#: Peak of the process at the default of CODING_MEMORY_MB: the engine has 192 MB, and Python and Arrow 150.
MAX_PROCESS_MB = 512


@pytest.fixture
def scratch(tmp_path):
    """The folder in which the command makes its scratch folders; it has to be empty at the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def environment(scratch):
    """Variables of a shell that knows nothing of Airflow and of a deployment."""
    names = [name for name in os.environ if not name.startswith(("AIRFLOW", "CODING", "COLUMNS", "FORCE_COLOR"))]
    return {name: os.environ[name] for name in names} | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def check(environment, tmp_path):
    """Run the command, and return its output, or its errors if the arguments are wrong."""

    def run(file, *arguments, status=0, **variables):
        process = subprocess.run(
            [*COMMAND, str(file), *arguments], cwd=tmp_path, env=environment | variables, capture_output=True,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert process.returncode == status, process.stdout + process.stderr
        assert bool(process.stderr) == (status == 2), process.stderr
        assert bool(process.stdout) == (status != 2)
        return process.stderr if status == 2 else process.stdout

    return run


@pytest.fixture
def check_json(check):
    return lambda file, *arguments, **options: json.loads(check(file, *arguments, "--json", **options))


def write(path, writer):
    writer(path)
    return path


def list_rejections(result):
    return [(entry["reason"], entry["records"], entry["places"]) for entry in result["rejections"]]


#: Records of all kinds, with a line break in a text, and a blank line.
MIXED_CSV = text(
    HEADER,
    f'1,{DAY},{SECRET} keeper,"feeds',
    f'the {SECRET}"',
    "",
    f"2,{DAY},,",
    f"3,,{SECRET},cares",
    f"4,05/10/2026,{SECRET},bakes",
    f",{DAY},{SECRET},bakes",
    f"6,2026-10-07,{SECRET} 护士,",
)


def test_a_file_is_shown_with_its_columns_dates_records_and_rejections(check_json, tmp_path):
    result = check_json(write(tmp_path / "answers.csv", MIXED_CSV))
    assert result["columns"] == [{"name": name, "type": "text", "use": [name]} for name in NAMES]
    assert (result["first_date"], result["last_date"], result["dates"]) == (DAY, "2026-10-07", 2)
    assert result["undated_places"] == ["line 6"]
    assert list_rejections(result) == [
        ("blank", 1, ["line 5"]),
        ("no_record_id", 1, ["line 8"]),
        ("not_printable_ascii", 1, ["line 9"]),
    ]
    estimate = result["estimate"]
    assert (estimate["read"], estimate["rejected"], estimate["texts"], estimate["parts"]) == (4, 3, 1, 1)
    assert (estimate["undated"], estimate["unreadable_dates"]) == (1, 1)
    assert estimate["unreadable_examples"] == ["line 7: '99/99/9999'"]
    assert (estimate["calls"], estimate["call_seconds"]) == (7, 7 / CALLS_PER_SECOND)
    assert (result["status"], result["problem"], result["is_readable"]) == (0, None, True)


def test_example_rows_show_shapes_and_nothing_shows_a_text(check, check_json, tmp_path):
    path = write(tmp_path / "answers.csv", MIXED_CSV)
    examples = check_json(path)["examples"]
    assert [example["place"] for example in examples] == [f"line {line}" for line in (2, 5, 6, 7, 8)]
    assert examples[0]["record_id"] == "9"
    assert examples[0]["response_date"] == "9999-99-99"
    assert examples[0]["occp_text"] == "aaaaaaaaa aaaaaa"
    assert examples[3]["response_date"] == "99/99/9999"
    output = check(path) + check(path, "--json")
    assert not re.search(f"{SECRET}|feeds|护|bakes", output)


def test_the_counts_are_those_of_a_dry_run(check_json, tmp_path):
    path = write(
        tmp_path / "data" / "answers.parquet",
        table(*[(f"r{i}", DAY, f"job {i % 7}", "x" * (i * 9)) for i in range(50)]),
    )
    plan = make_plan(source=path.as_uri(), dry_run=True, from_date=DAY, to_date=DAY)
    folder = tmp_path / "run"
    folder.mkdir()
    access = SourceAccess(folders=(path.parent,))
    prepared = prepare(plan, open_warehouse(tmp_path / "warehouse.duckdb"), Staging.in_folder(folder), access)
    result = check_json(path, status=1)
    assert prepared.rejected == 17
    assert result["problem"].startswith(
        "17 of 50 records are rejected (34.0%), which exceeds max_rejected_share = 0.2"
    )
    names = set(PREPARED_FIELDS) - {"warnings"}  # the plan of the dry run has another limit
    assert {name: result["estimate"][name] for name in names} == {
        name: value for name, value in prepared.to_dict().items() if name in names
    }
    assert result["estimate"]["bytes"] == sum(part.bytes for part in prepared.parts)


BLANK = ("2", DAY, "", "")


@pytest.mark.parametrize(
    ("name", "writer", "arguments", "place"),
    [
        ("answers.csv", rows(CHEF, BLANK), (), "line 3"),
        ("answers.txt", rows(CHEF, BLANK, above=("a survey", ""), delimiter=";"), ("--read-options", "header_row=3", "delimiter=;"), "line 5"),
        ("answers.csv.gz", packed(rows(CHEF, BLANK)), (), "line 3"),
        ("answers.csv", rows(CHEF, BLANK, encoding="utf-16"), ("--read-options", "encoding=utf-16"), "line 3"),
        ("answers.csv", text("occp_text", "chef", "", "nurse"), ("--columns", "record_id=null", "tasks_text=null", "--response-date", DAY), None),
        ("answers.jsonl", lines(record(), "", record(*BLANK)), (), "line 3"),
        ("answers.json", text(json.dumps([record(), record(*BLANK)], indent=2)), (), "record 2"),
        ("answers.xlsx", excel(CHEF, BLANK), (), "row 3"),
        ("answers.parquet", table(CHEF, BLANK), (), "row 2"),
    ],
)  # fmt: skip
def test_the_place_of_a_rejected_record_is_that_in_which_a_person_finds_it(
    check_json, tmp_path, name, writer, arguments, place
):
    result = check_json(write(tmp_path / name, writer), *arguments)
    assert list_rejections(result) == ([("blank", 1, [place])] if place else [])


def test_a_row_of_a_folder_is_shown_with_its_file(check_json, tmp_path):
    for name, records in (("a", [CHEF, NURSE]), ("b", [CHEF, BLANK])):
        write(tmp_path / "data" / f"{name}.parquet", table(*records))
    assert list_rejections(check_json(tmp_path / "data")) == [("blank", 1, ["row 2 of 'b.parquet'"])]
    assert check_json(tmp_path / "data" / "[a]*.parquet")["estimate"]["read"] == 2


def test_only_the_first_places_are_shown_with_the_number_of_all(check, check_json, tmp_path):
    path = write(tmp_path / "answers.csv", rows(*[CHEF] * 60, *[BLANK] * 9))
    assert list_rejections(check_json(path)) == [("blank", 9, [f"line {line}" for line in range(62, 67)])]
    assert "  blank: 9 (line 62, line 63, line 64, line 65, line 66, ...)\n" in check(path)


def test_a_wrong_mapping_is_refused_with_the_columns_of_the_file_and_a_suggestion(check, check_json, tmp_path):
    path = write(
        tmp_path / "answers.csv", rows(CHEF, names=("record_id", "response_date", "Occp_Text ", "tasks_text"))
    )
    result = check_json(path, status=1)
    assert [(column["name"], column["use"]) for column in result["columns"]] == [
        ("record_id", ["record_id"]),
        ("response_date", ["response_date"]),
        ("Occp_Text ", []),
        ("tasks_text", ["tasks_text"]),
    ]
    assert 'set `columns` to {"occp_text": "Occp_Text "}' in result["problem"]
    assert check(path, status=1).rstrip().endswith(result["problem"])
    assert check_json(path, "--columns", '{"occp_text": "Occp_Text "}')["problem"] is None
    assert check_json(path, "--columns", "occp_text=Occp_Text ")["columns"][2]["use"] == ["occp_text"]


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("answers.csv", text(f"1,{DAY},{SECRET},cooks")),
        ("answers.csv", text(f"{SECRET},x,y,z", HEADER, f"1,{DAY},chef,cooks")),
        ("answers.xlsx", excel(CHEF, above=([f"{SECRET}", "x"],))),
    ],
)
def test_values_in_the_place_of_names_are_not_shown(check, check_json, tmp_path, name, writer):
    path = write(tmp_path / name, writer)
    assert SECRET not in check(path, status=1)
    assert check_json(path, status=1)["columns"] == []


@pytest.mark.parametrize(
    ("name", "writer", "problem"),
    [
        ("answers.csv", raw(b""), "cannot be read: it is empty"),
        ("answers.sav", raw(b"x"), "is a file of SPSS"),
        ("answers.csv", text(HEADER, f"1,{DAY},{SECRET}"), "line 2 has 3 values, but the header has 4"),
        ("answers.jsonl", text("{", SECRET), "line 1 is not one complete JSON object"),
        (
            "answers.csv",
            rows(("1", "05/10/2026", SECRET, "")),
            "1 of 1 values in 'response_date' (100.0%) are not dates",
        ),
    ],
)
def test_a_file_that_a_run_refuses_is_refused_in_the_same_words(check, check_json, tmp_path, name, writer, problem):
    path = write(tmp_path / name, writer)
    assert problem in check_json(path, status=1)["problem"]
    output = check(path, status=1)
    assert problem in output
    assert SECRET not in output


def test_a_file_that_is_not_there_is_refused(check_json):
    assert "there is no file /nowhere/answers.csv" in check_json("/nowhere/answers.csv", status=1)["problem"]


def test_a_relative_path_and_a_uri_name_the_same_file_whatever_the_settings_allow(check_json, tmp_path):
    path = write(tmp_path / "answers.csv", rows(CHEF))
    sources = [path, path.name, path.as_uri(), f"./x/../{path.name}"]
    results = [check_json(source, CODING_SOURCE_FOLDERS="/somewhere/else") for source in sources]
    assert [result["estimate"]["read"] for result in results] == [1, 1, 1, 1]


def test_the_commands_of_the_documentation_check_their_files(check, tmp_path):
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    python -m include.pipeline check (\S+)(.*)$", page, re.MULTILINE)
    assert [name for name, _ in commands] == ["answers.csv", "october.xlsx"]
    write(tmp_path / "answers.csv", rows(CHEF))
    names = ("record_id", "response_date", "Q1")
    write(tmp_path / "october.xlsx", sheets(("Data", [["a survey"], names, ("1", "05/10/2026", "chef")])))
    for name, arguments in commands:
        assert "A run can read this file, and no limit is exceeded." in check(name, *shlex.split(arguments))


def test_more_columns_than_can_be_shown_are_counted(check, check_json, tmp_path):
    names = [*NAMES, *(f"q{number}" for number in range(60))]
    path = write(tmp_path / "answers.csv", rows([*CHEF, *[""] * 60], names=names))
    result = check_json(path)
    assert (result["column_count"], len(result["columns"])) == (64, 50)
    assert "Columns that are not shown: 14\n" in check(path, PYTHONIOENCODING="ascii")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--columns", "{"], "--columns is no valid JSON"),
        (["--columns", "job=title"], "`columns` names 'job'"),
        (["--columns", "occp_text"], "--columns has 'occp_text'; expected NAME=VALUE"),
        (["--columns", "occp_text=a", "occp_text=b"], "--columns names 'occp_text' twice"),
        (["--read-options", "header=3"], "`read_options` names 'header' (did you mean 'header_row'?)"),
        (["--read-options", "header_row=three"], "header_row"),
        (["--response-date", "5/10/2026"], "it is not a date such as 2026-10-31"),
        (["--frobnicate"], "unrecognized arguments"),
        (["s3://bucket/answers.csv"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_have_an_exit_status_of_their_own(check, tmp_path, arguments, problem):
    path = write(tmp_path / "answers.csv", rows(CHEF))
    assert problem in check(path, *arguments, status=2)


def test_a_file_in_object_storage_and_an_impossible_setting_are_wrong_usage(check, tmp_path):
    assert "copy it to this machine" in check("s3://bucket/answers.csv", status=2)
    path = write(tmp_path / "answers.csv", rows(CHEF))
    assert "CODING_MEMORY_MB is 'much'" in check(path, status=2, CODING_MEMORY_MB="much")


def test_without_a_terminal_there_are_no_control_characters_even_in_names(check, tmp_path):
    names = (*NAMES, "\x1b[31mred\x1b[0m", "[bold]x[/bold]")
    output = check(write(tmp_path / "answers.csv", rows((*CHEF, "", ""), names=names)))
    assert [character for character in output if not character.isprintable() and character != "\n"] == []
    assert "[bold]x[/bold]" in output


def test_neither_airflow_nor_the_service_is_imported(environment, tmp_path):
    path = write(tmp_path / "answers.csv", rows(CHEF))
    program = (
        "import runpy, sys; sys.modules |= dict.fromkeys(['airflow', 'coding_service']);"
        f" sys.argv = ['check', 'check', {str(path)!r}]; runpy.run_module('include.pipeline', run_name='__main__')"
    )
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


def test_calls_are_estimated_with_the_call_budget_of_a_connection_that_sets_none():
    fields = ServiceSettings.__dataclass_fields__
    assert fields["requests_per_second"].default == CALLS_PER_SECOND


# ---- terminals, long files and interruptions -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """A million records, a tenth of them without texts, and half as many texts, so that checking them takes a while."""
    path = tmp_path_factory.mktemp("long") / "answers.csv"
    duckdb.execute(
        f"COPY (SELECT 'R' || i AS record_id, DATE '{DAY}' AS response_date,"
        f" if(i % 10 = 0, '', '{SECRET} ' || hash(i) % 500000) AS occp_text, if(i % 10 = 0, '', 'feeds fish') AS tasks_text"
        f" FROM range(1000000) AS r(i)) TO '{path}' (FORMAT csv)"
    )
    return path


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, file, environment, columns=80):
        self.output, self.peak_mb = "", 0
        self._reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        variables = environment | {"TERM": "xterm"}
        self.process = subprocess.Popen(
            [*COMMAND, str(file)], stdout=writer, stderr=writer, stdin=writer, env=variables, start_new_session=True
        )
        os.close(writer)

    def read_until(self, pattern):
        """Read until the output matches a pattern, or to its end if that is None."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and not (pattern and re.search(pattern, self.output)):
            try:
                block = os.read(self._reader, 1 << 16)
            except OSError:  # its end
                break
            if not block:
                break
            self.output += block.decode(errors="replace")
            self.peak_mb = max(self.peak_mb, read_peak_bytes(self.process.pid) >> 20)

    def wait(self):
        """Return the exit status and the largest memory of the process in MB."""
        self.read_until(None)
        os.close(self._reader)
        return self.process.wait(), self.peak_mb


def test_a_million_records_show_their_progress_on_a_terminal_and_stay_within_memory(long_file, environment):
    terminal = Terminal(long_file, environment)
    status, peak_mb = terminal.wait()
    assert status == 0, terminal.output[-1000:]
    assert peak_mb < MAX_PROCESS_MB
    for step in ("Opening the file", "Reading the records", "Checking the texts", "Looking for rejected records"):
        assert step in terminal.output
    assert "━" in terminal.output, "the bar"
    end = terminal.output[terminal.output.rindex("\x1b[2K") :]
    assert "Records: 1000000, of which 100000 are rejected" in end
    assert SECRET not in terminal.output


@pytest.mark.parametrize("columns", [80, 160])
def test_lines_fit_the_terminal(environment, tmp_path, columns):
    names = (*NAMES, *(f"q{number}_" + "name " * 15 for number in range(3)))
    path = write(tmp_path / "answers.csv", rows((*CHEF, "", "", ""), (*BLANK, "", "", ""), names=names))
    terminal = Terminal(path, environment, columns)
    assert terminal.wait()[0] == 0
    shown = re.split("[\r\n]+", re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", terminal.output))
    assert max(map(len, shown)) <= columns


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", ["Opening the file", "Checking the texts"])
def test_an_interrupted_check_leaves_no_files(long_file, environment, scratch, number, step):
    terminal = Terminal(long_file, environment)
    terminal.read_until(step)
    (folder,) = scratch.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    os.kill(terminal.process.pid, number)
    assert terminal.wait()[0] == 128 + number
    assert "Traceback" not in terminal.output
    assert list(scratch.iterdir()) == []


def test_the_files_of_a_killed_check_are_removed_by_the_next_one(long_file, environment, scratch, check, tmp_path):
    terminal = Terminal(long_file, environment)
    terminal.read_until("Checking the texts")
    terminal.process.kill()
    assert terminal.wait()[0] == -signal.SIGKILL
    assert len(list(scratch.iterdir())) == 1
    check(write(tmp_path / "answers.csv", rows(CHEF)))
    assert list(scratch.iterdir()) == []
