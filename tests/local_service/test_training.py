"""The commands import, train, evaluate and code; the selection of held-out titles; and the progress bar."""

import argparse
import io
import json
from pathlib import Path

import pytest

from include.local_service.cli.commands import COMMANDS
from include.local_service.cli.progress_bar import ProgressBar
from include.local_service.cli.topics import find_topic
from include.local_service.coder.evaluation import hold_out
from include.local_service.coder.hierarchy import Category, read_categories
from include.local_service.core.catalogue import Model
from include.local_service.core.coders import Coders
from tests.local_service.test_workbooks import DESCRIPTIONS, STRUCTURE, write_csv

TRADES = [
    {"code": "1", "label": "Food"},
    {
        "code": "11",
        "label": "Baker",
        "titles": ["bread maker", "bagel man"],
        "tasks": ["bakes", "sells", "rises", "kneads"],
    },
    {
        "code": "12",
        "label": "Cook",
        "titles": ["chef", "kitchen hand"],
        "tasks": ["fries", "boils", "tastes", "stirs"],
    },
    {"code": "2", "label": "Cloth"},
    {"code": "21", "label": "Tailor", "titles": ["dressmaker", "chef"], "tasks": ["sews", "cuts", "fits", "irons"]},
]


def run(name: str, *arguments: str) -> int:
    """Run a command in this process."""
    command, parser = COMMANDS[name].load(), argparse.ArgumentParser()
    command.add_arguments(parser)
    status: int = command.run(parser.parse_args(arguments))
    return status


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    """A data folder with a topic `trades`."""
    folder = tmp_path / "data" / "classifications"
    folder.mkdir(parents=True)
    (folder / "trades.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRADES))
    (folder / "trades.json").write_text(json.dumps({"fullName": "Trades", "topicVersion": "1", "occupations": 3}))
    return str(folder.parent)


@pytest.fixture
def trades() -> list[Category]:
    return read_categories("\n".join(map(json.dumps, TRADES)).encode())


# ---------------------------------------------------------------- the commands


def test_import_makes_a_topic_and_trains_both_of_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure, descriptions = (
        str(write_csv(tmp_path / name, rows)) for name, rows in [("s.csv", STRUCTURE), ("d.csv", DESCRIPTIONS)]
    )
    data = str(tmp_path / "data")
    assert (
        run("import", "--data", data, "--topic", "trades", "--structure", structure, "--descriptions", descriptions)
        == 0
    )
    output = capsys.readouterr()
    assert "1 of 1 digit, 1 of 2 digits, 1 of 3 digits, 1 of 4 digits, 2 of 6 digits" in output.out
    assert "trades: model 1 is ready\ntrades: model 2 is ready\n" in output.out
    assert "100%  all texts" in output.err
    assert run("code", "pretzel baker", "--data", data, "--topic", "trades") == 0
    output = capsys.readouterr()
    assert output.out.startswith("1111")
    assert output.err == ""  # the models exist already


def test_the_service_uses_the_model_files_of_train(data_dir: str) -> None:
    assert run("train", "--topic", "trades", "--data", data_dir) == 0
    topic = find_topic(Path(data_dir), "trades")
    steps: list[str] = []
    coders = Coders("svm", Path(data_dir), lambda what, done, total: steps.append(what))
    codings = [coders.coder(Model(topic, version)).code([("bread maker", "")])[0] for version in (1, 2)]
    assert steps == []
    assert codings[0] != codings[1]  # model 1 is trained on fewer examples


def test_an_import_with_no_train_does_not_train(tmp_path: Path) -> None:
    structure = str(write_csv(tmp_path / "s.csv", STRUCTURE))
    assert run("import", "--data", str(tmp_path / "data"), "--structure", structure, "--no-train") == 0
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["classifications"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("import", "--structure", "nowhere.xlsx"), "nowhere.xlsx: cannot be read"),
        (("import", "--structure", "nowhere.xlsx", "--topic", "A b"), "lower-case letters, digits and hyphens"),
        (("train", "--topic", "herbs"), "unknown topic 'herbs' in .*. Use one of: osca, anzsco, trades."),
        (("code", "baker", "--topic", "herbs"), "unknown topic 'herbs'"),
        (("evaluate", "--topic", "herbs"), "unknown topic 'herbs'"),
    ],
)
def test_an_expected_error_ends_with_a_message(data_dir: str, command: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run(*command, "--data", data_dir)


@pytest.mark.parametrize("wrong", ["1.5", "-1", "many", "nan"])
def test_an_invalid_share_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("evaluate", "--share", wrong)
    assert wrong in capsys.readouterr().err


def test_code_prints_a_result_or_suggestions(data_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("code", "dressmaker", "--tasks", "sews", "--threshold", "0.1", "--topic", "trades", "--data", data_dir)
    assert capsys.readouterr().out.startswith("21      Tailor  ")
    run("code", "dressmaker", "--threshold", "1", "--topic", "trades", "--data", data_dir)
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading == "no code reaches a confidence of 100%; suggestions:"
    assert first.startswith("21      Tailor  ")


def test_evaluate_prints_every_figure(data_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--topic", "trades", "--data", data_dir, "--share", "0.4") == 0
    report = capsys.readouterr().out
    for figure in (
        "per cent right",
        "1 digit",
        "unseen titles",
        "cost of the typing error",
        "confidence",
        "texts a second",
    ):
        assert figure in report


# ---------------------------------------------------------------- held-out titles


def test_no_occupation_keeps_a_title_that_is_held_out(trades: list[Category]) -> None:
    for seed in range(20):
        split = hold_out(trades, 0.4, seed)
        held_out = {answer.title.casefold() for answer in split.titles}
        remaining = {
            title.casefold() for one in split.categories if len(one.code) == 2 for title in (one.label, *one.titles)
        }
        assert held_out
        assert not held_out & remaining
        assert sum(answer.title == "chef" for answer in split.titles) in {0, 2}  # two occupations have it


def test_no_occupation_keeps_a_task_that_is_held_out(trades: list[Category]) -> None:
    split = hold_out(trades, 0.4)
    remaining = {(one.code, task) for one in split.categories for task in one.tasks}
    assert split.with_tasks
    assert not {(answer.code, answer.tasks) for answer in split.with_tasks} & remaining


def test_the_same_seed_selects_the_same_titles(trades: list[Category]) -> None:
    assert hold_out(trades, 0.4, 1) == hold_out(trades, 0.4, 1)
    assert hold_out(trades, 0.4, 1) != hold_out(trades, 0.4, 2)


# ---------------------------------------------------------------- the progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_activity_is_one_line() -> None:
    stream, times = io.StringIO(), iter([0.0, *(step / 100 for step in range(400))])
    bar = ProgressBar(stream, lambda: next(times))
    for done in range(1, 101):
        bar("first" if done <= 50 else "second", done, 100)
    assert stream.getvalue().splitlines() == ["  1%  first", " 51%  second", "100%  second"]


def test_a_terminal_gets_a_growing_bar_and_one_line_end() -> None:
    stream = Terminal()
    bar = ProgressBar(stream)
    bar("all", 1, 2)
    bar("all", 2, 2)
    text = stream.getvalue()
    assert text.count("\r") == 2
    assert text.count("\n") == 1
    assert "[###############               ]  50%  all" in text
    assert "[##############################] 100%  all" in text
