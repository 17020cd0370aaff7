"""A seeded input gives the same rows as always, row by row, however they are computed.

The expected rows were published when records were still joined by their texts. To write them again after a deliberate
change, run `python -m tests.coding.test_same_rows`, and look at the difference.
"""

import csv
import hashlib
import json
import random
import tempfile
from pathlib import Path

import duckdb

from tests.coding.conftest import DAY, NEXT_DAY, Pipeline, on_duckdb_and_postgres

EXPECTED = Path(__file__).with_name("published_rows.csv")
ROWS = 600
TITLES = [
    "chef",
    "Chef",
    " chef ",
    "café owner",
    "teacher",
    "",
    None,
    "R&D manager",
    "R&amp;D manager",
    "护士",
    "nurse’s aide",
]
TASKS = [
    "cooks",
    "",
    None,
    "teaches  maths",
    "x" * 290,
    "y" * 320,
    "looks after\tpatients",
    "½ day &#8211; desk",
    "\u200b",
]
COLUMNS = (
    "record_id, occurrence, CAST(response_date AS VARCHAR), topic, model_id, model_version, outcome, code, label,"
    " confidence, level, suggestions, reason, text_key, operation_id, run_id"
)


def write_source(path):
    """Write the seeded input: few and many equal texts, ids that are missing or stand twice, texts that are rejected."""
    generator = random.Random(16)
    ids = [*[None, ""] * 10, *(f"R{number}" for number in range(ROWS * 9 // 10))]
    rows = [
        {
            "record_id": generator.choice(ids),
            "response_date": generator.choice([DAY, NEXT_DAY]),
            "occp_text": generator.choice(TITLES),
            "tasks_text": generator.choice([*TASKS, f"task {generator.randrange(50)}"]),
        }
        for _ in range(ROWS)
    ]
    lines = path.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    duckdb.sql(
        f"COPY (FROM read_json('{lines}', columns = {{record_id: 'VARCHAR', response_date: 'DATE', occp_text: 'VARCHAR',"
        f" tasks_text: 'VARCHAR'}})) TO '{path}' (FORMAT parquet)"
    )


def code_by_hash(line):
    """Return an output line whose code, confidence and suggestions follow from the text."""
    digest = hashlib.sha256((line["occp_text"] + "\x1f" + line["tasks_text"]).encode()).digest()
    candidates = [
        {"codeCategory": str(digest[number] * 1000 + 1)[: 1 + digest[number] % 6], "codeLabel": f"label {digest[number]}",
         "codeConfidence": digest[number] / 256}
        for number in range(3)
    ]  # fmt: skip
    is_coded = digest[3] % 4 > 0
    output = {
        "recordId": line["recordId"], "codeStatus": "Successful" if is_coded else "Unsuccessful",
        "input": {"occp_text": line["occp_text"], "tasks_text": line["tasks_text"]},
        "result": candidates[0] if is_coded else None, "suggestions": None if is_coded else candidates,
    }  # fmt: skip
    return json.dumps(output) + "\n"


def publish_rows(pipeline, source):
    """Return the rows that a run over the seeded input publishes, as texts."""
    write_source(source)
    pipeline.run(
        code_by_hash, source=source.as_uri(), records_per_part=100, max_rejected_share=1, max_uncoded_share=1
    )
    rows = pipeline.query(f"SELECT {COLUMNS} FROM coding.coded_records ORDER BY 3, 1, 2")
    return [["" if value is None else str(value) for value in row] for row in rows]


@on_duckdb_and_postgres
def test_a_seeded_input_gives_the_rows_that_it_has_always_given(pipeline, tmp_path):
    rows = publish_rows(pipeline, tmp_path / "source.parquet")
    with EXPECTED.open(newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file))
    assert len(rows) == ROWS
    assert rows == expected


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        published = publish_rows(Pipeline(Path(folder), f"{folder}/w.duckdb"), Path(folder) / "source.parquet")
    with EXPECTED.open("w", newline="", encoding="utf-8") as expected_file:
        csv.writer(expected_file).writerows(published)
