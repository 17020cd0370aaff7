"""The examples of docs/sources.md: each of them reads its file."""

import json
import re
from pathlib import Path

import openpyxl
import pytest

from include.coding.read_options import NAMES
from tests.coding.conftest import DAY, make_plan, open_test_source

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- example: (\S+) ?(\S*)\n(.*?)\n-->\n```json\n(.*?)\n```", PAGE, re.DOTALL)
BLOCKS = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)


def write(path, encoding, content):
    if path.suffix != ".xlsx":
        path.write_text(content + "\n", encoding=encoding or "utf-8")
        return
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in re.findall(r"\[(\w+)\]\n(.*?)(?=\n\[|\Z)", content, re.DOTALL):
        sheet = workbook.create_sheet(title)
        for row in rows.split("\n"):
            sheet.append(row.split(",") if row else [])
    workbook.save(path)


@pytest.mark.parametrize("example", EXAMPLES, ids=[json.dumps(json.loads(params)) for *_, params in EXAMPLES])
def test_an_example_reads_its_file(tmp_path, example):
    name, encoding, content, text = example
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / name, encoding, content)
    params = json.loads(text)
    params["source"] = params["source"].replace("file:///data", (tmp_path / "data").as_uri())
    plan = make_plan(**params, from_date=DAY, to_date=DAY, timezone="Australia/Sydney")
    with open_test_source(tmp_path / "run", plan, None) as (engine, _):
        ((record_id, title),) = engine.execute("SELECT record_id, occp_text FROM source").fetchall()
    assert record_id in ("1", "007", "R_1")
    assert title in ("chef", "café owner")


def test_every_example_with_a_file_has_one_and_every_option_has_an_example():
    with_files = [json.loads(block) for block in BLOCKS if "s3://" not in block]
    assert len(EXAMPLES) == len(with_files)
    options = {name for block in BLOCKS for name in json.loads(block).get("read_options", {})}
    assert options == set(NAMES)
