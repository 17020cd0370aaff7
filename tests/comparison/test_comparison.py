"""What changed between two models, in figures that a person can check by counting."""

import hashlib
import json
import random
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import date

import pytest

from include.coding.errors import PlanError, SourceError
from include.coding.files import path_from_uri
from include.coding.staging import Staging
from include.coding.tables import create_tables
from include.comparison.changes import find_changes
from include.comparison.comparison import Comparison
from include.comparison.report import write_comparison
from tests.support.warehouses import open_warehouse

DAY, NEXT_DAY = "2026-10-05", "2026-10-06"
LABELS = {"351311": "Chef", "351411": "Cook", "254411": "Nurse", "2544": "Nurses", "3": "Trades", "2": "Experts"}
MODEL = "11111111-1111-4111-8111-111111111111"
OTHER_MODEL = "22222222-2222-4222-8222-222222222222"
THIRD_MODEL = "33333333-3333-4333-8333-333333333333"
#: Record id, occurrence, code or outcome, and confidence of each record, under the model before and the one after.
BEFORE = [
    ("1", 1, "351311", 0.9), ("2", 1, "351311", 0.7), ("3", 1, "351311", 0.5), ("3", 2, "254411", 0.4),
    ("4", 1, "uncoded", None), ("5", 1, "351311", 0.8), ("6", 1, "rejected", None), ("7", 1, "254411", 0.9),
    ("9", 1, "3", 0.3), ("10", 1, "ABC", 0.6),
]  # fmt: skip
AFTER = [
    ("1", 1, "351311", 0.8), ("2", 1, "351411", 0.6), ("3", 1, "351411", 0.7), ("3", 2, "2544", 0.9),
    ("4", 1, "254411", 0.5), ("5", 1, "uncoded", None), ("6", 1, "rejected", None), ("8", 1, "351311", 0.9),
    ("9", 1, "2", 0.2), ("10", 1, "ABC", 0.6),
]  # fmt: skip


def make_key(text):
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class CodedRecords:
    """A warehouse to fill with coded records and to compare models in."""

    def __init__(self, place, folder):
        self.warehouse, self.folder = open_warehouse(place), folder
        with self.warehouse.session() as session:
            create_tables(session, "coding")

    def run(self, sql, *values):
        with self.warehouse.session() as session:
            return session.execute(sql, values)

    def add(self, model_id, version, rows, topic="osca", day=DAY, labels=None, texts=None):
        """Insert the records of a model. `texts` gives texts by record id; the default text is made from the id."""
        values = []
        for record_id, occurrence, code, confidence in rows:
            outcome = code if code in ("uncoded", "rejected") else "coded"
            code = code if outcome == "coded" else None
            level = len(code) if code and code.isdigit() else None
            text = (texts or {}).get(record_id, f"text of {record_id}")
            text_key = None if outcome == "rejected" else make_key(text)
            label = code and {**LABELS, **(labels or {})}.get(code, f"label of {code}")
            values += [record_id, occurrence, date.fromisoformat(day), topic, model_id, version, outcome, code,
                        label, confidence, level, text_key]  # fmt: skip
        row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, 'op', 'run', TIMESTAMP '2026-11-01 00:00:00')"
        self.run(f"INSERT INTO coding.coded_records VALUES {', '.join([row] * len(rows))}", *values)

    def add_text(self, model_id, occp_text, tasks_text, record_id="2", topic="osca"):
        self.run(
            "INSERT INTO coding.coded_texts VALUES (?, ?, ?, 1, ?, ?, 'coded', NULL, NULL, NULL, NULL, NULL, 'op', 'run',"
            " TIMESTAMP '2026-11-01 00:00:00', NULL)",
            make_key(f"text of {record_id}"), topic, model_id, occp_text, tasks_text,
        )  # fmt: skip

    def add_crosswalk(self, *pairs, columns="from_code VARCHAR(9), to_code VARCHAR(9)"):
        """Create the table `crosswalk`."""
        self.run(f"CREATE TABLE crosswalk ({columns})")
        for pair in pairs:
            self.run("INSERT INTO crosswalk VALUES (?, ?)", *pair)

    def compare(self, **changes):
        with self.warehouse.session(read_only=True) as session:
            return find_changes(Comparison(**{"topic": "osca", **changes}), session)

    def write(self, **changes):
        """Return the report and the picture as text."""
        comparison = Comparison(**{"topic": "osca", **changes})
        staging = Staging.in_folder(self.folder / "report")
        report = path_from_uri(write_comparison(comparison, self.warehouse, staging))
        return report.with_suffix(".md").read_text(encoding="utf-8"), (report.parent / "picture.svg").read_text(
            encoding="utf-8"
        )


@pytest.fixture
def empty(place, tmp_path):
    return CodedRecords(place, tmp_path)


@pytest.fixture
def coded(empty):
    empty.add(MODEL, 1.0, BEFORE)
    empty.add(OTHER_MODEL, 2.0, AFTER, labels={"351311": "Head chef"})
    return empty


def rows(frame):
    return [tuple(row) for row in frame.itertuples(index=False)]


def test_records_are_matched_by_id_date_and_occurrence_and_counted_by_what_changed(coded):
    changes = coded.compare()
    assert (changes.in_both, changes.only_before, changes.only_after) == (9, 1, 1)
    assert changes.outcomes.values.tolist() == [[6, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert changes.verdicts == {"kept": 2, "moved": 4, "unmapped": 0}
    assert (changes.gained_code, changes.lost_code, changes.without_code, changes.text_changes) == (1, 1, 1, 0)


def test_agreement_at_a_level_counts_records_whose_codes_both_have_that_many_digits(coded):
    levels = [(row.level, row.records, row.agree) for row in coded.compare().agreement.itertuples()]
    assert levels == [(1, 5, 4), (2, 4, 4), (3, 4, 4), (4, 4, 2), (5, 3, 1), (6, 3, 1)]


def test_moves_are_ranked_and_a_changed_label_is_not_a_move(coded):
    changes = coded.compare()
    assert rows(changes.moves) == [
        ("351311", "Chef", "351411", "Cook", 2, 0.5),
        ("254411", "Nurse", "2544", "Nurses", 1, 0.25),
        ("3", "Trades", "2", "Experts", 1, 0.25),
    ]
    assert rows(changes.label_changes) == [("351311", "Chef", "Head chef", 1)]


def test_a_code_without_a_label_moves_like_any_other(coded):
    coded.run("UPDATE coding.coded_records SET label = NULL")
    changes = coded.compare()
    assert rows(changes.moves)[0] == ("351311", "", "351411", "", 2, 0.5)
    assert changes.label_changes.empty
    assert "351311 → 351411" in coded.write()[1]


def test_confidence_is_reported_for_all_records_that_both_models_coded_and_by_verdict(coded):
    figures = {row[0]: tuple(round(figure, 6) for figure in row[1:]) for row in rows(coded.compare().confidence)}
    assert figures == {
        "all": (6, 0.566667, 0.633333, 0.55, 0.65),
        "kept": (2, 0.75, 0.7, 0.75, 0.7),
        "moved": (4, 0.475, 0.6, 0.45, 0.65),
    }


def test_dates_limit_what_is_compared_and_the_same_id_on_another_date_is_another_record(coded):
    coded.add(MODEL, 1.0, [("1", 1, "254411", 0.5)], day=NEXT_DAY)
    coded.add(OTHER_MODEL, 2.0, [("1", 1, "254411", 0.5)], day=NEXT_DAY)
    assert coded.compare().in_both == 10
    assert coded.compare(to_date=DAY).in_both == 9
    changes = coded.compare(from_date=NEXT_DAY, to_date=NEXT_DAY)
    assert (changes.in_both, changes.verdicts["kept"], changes.only_before) == (1, 1, 0)


def test_records_whose_text_changed_in_the_source_are_counted(empty):
    empty.add(MODEL, 1.0, [("1", 1, "351311", 0.9), ("2", 1, "351311", 0.9)])
    empty.add(OTHER_MODEL, 2.0, [("1", 1, "351311", 0.9), ("2", 1, "351411", 0.9)], texts={"2": "corrected"})
    assert empty.compare().text_changes == 1


def test_models_are_named_by_word_or_by_guid(coded):
    coded.add(THIRD_MODEL, None, BEFORE)
    changes = coded.compare()
    assert (changes.before.model_id, changes.after.model_id) == (MODEL, OTHER_MODEL)
    changes = coded.compare(model_before=THIRD_MODEL, model_after="previous")
    assert (changes.before.model_id, changes.after.model_id) == (THIRD_MODEL, MODEL)
    assert changes.verdicts["moved"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_before": "nobody"}, f"'osca' has no records of model 'nobody'. Models with records: osca {OTHER_MODEL} .version 2, {DAY} to {DAY}.; osca {MODEL} .version 1"),
        ({"topic": "anzsco"}, "topic 'anzsco' has no records of model 'previous'. Models with records: osca"),
        ({"model_before": "newest"}, f"both models are the same: osca {OTHER_MODEL}"),
        ({"model_before": OTHER_MODEL}, f"both models are the same: osca {OTHER_MODEL}"),
        ({"from_date": NEXT_DAY}, f"no records from {NEXT_DAY} to 9999-12-31 of osca {MODEL}"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_compared_is_an_error_that_lists_the_models_with_records(coded, changes, message):
    with pytest.raises(PlanError, match=message):
        coded.compare(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic_after": "anzsco"}, "'osca' and 'anzsco' have different codes. Set `crosswalk`"),
        ({"from_date": NEXT_DAY, "to_date": DAY}, "Swap them"),
        ({"from_date": "May"}, "from_date is 'May', to_date is None. Expected dates"),
    ],
)
def test_an_impossible_comparison_is_refused_before_any_work(changes, message):
    with pytest.raises(PlanError, match=message):
        Comparison("osca", **changes)


def test_models_without_a_record_in_common_are_refused(empty):
    empty.add(MODEL, 1.0, BEFORE)
    empty.add(OTHER_MODEL, 2.0, AFTER, day=NEXT_DAY)
    with pytest.raises(PlanError, match=f"no record is in both: osca {MODEL} .*; osca {OTHER_MODEL}"):
        empty.compare()


def test_a_warehouse_without_our_tables_is_an_error_that_says_so(coded):
    with pytest.raises(PlanError, match='table "elsewhere".coded_records does not exist. Run recode_occupations'):
        coded.compare(schema="elsewhere")


@pytest.fixture
def crossed(empty):
    """Two topics with different codes."""
    empty.add(MODEL, 1.0, BEFORE)
    after = [("1", 1, "251", 0.8), ("2", 1, "2599", 0.8), ("3", 1, "2511", 0.8), ("3", 2, "254", 0.8),
             ("9", 1, "4", 0.8), ("10", 1, "7", 0.8)]  # fmt: skip
    empty.add(OTHER_MODEL, 9.0, after, topic="anzsco")
    return empty


CROSSED = {"model_before": "newest", "topic_after": "anzsco", "crosswalk": "crosswalk"}


def test_a_code_agrees_with_every_code_that_it_maps_to(crossed):
    crossed.add_crosswalk(("351311", "2511"), ("351311", "251"), ("254411", "254"), ("254411", "299"), ("3", "3"))
    changes = crossed.compare(**CROSSED)
    assert changes.verdicts == {"kept": 3, "moved": 2, "unmapped": 1}
    levels = [(row.level, row.records, row.agree) for row in changes.agreement.itertuples()]
    assert levels == [(1, 5, 4), (2, 4, 4), (3, 4, 3), (4, 2, 1), (5, 0, 0), (6, 0, 0)]
    assert [(move[0], move[2]) for move in rows(changes.moves)] == [("3", "4"), ("351311", "2599")]
    assert list(changes.confidence["verdict"]) == ["all", "kept", "moved", "unmapped"]


def test_codes_missing_from_the_crosswalk_are_counted_before_and_after(crossed):
    columns = "To_Code VARCHAR(9), FROM_CODE VARCHAR(9)"
    crossed.add_crosswalk(("351311", "2511"), ("351311", "2511"), ("3", None), columns=columns)
    crossed.run("UPDATE crosswalk SET from_code = '351311 ', to_code = ' 2511' WHERE from_code = '2511'")
    changes = crossed.compare(**CROSSED)
    assert changes.verdicts == {"kept": 1, "moved": 2, "unmapped": 3}
    assert [(row.missing_as, row.code, row.records) for row in changes.missing_codes.itertuples()] == [
        ("from_code", "254411", 1), ("from_code", "3", 1), ("from_code", "ABC", 1),
        ("to_code", "251", 1), ("to_code", "254", 1), ("to_code", "2599", 1), ("to_code", "4", 1), ("to_code", "7", 1),
    ]  # fmt: skip
    text, picture = crossed.write(**CROSSED)
    assert "3 codes before (`from_code`) and 5 codes after (`to_code`)" in text
    assert "their old code is missing from the crosswalk: 3 (50.0%)" in text
    assert "old code missing from the crosswalk" in picture


def test_a_crosswalk_can_be_a_view_of_numbers(crossed):
    crossed.add_crosswalk((351311, 251), columns="a INTEGER, b INTEGER")
    crossed.run("CREATE VIEW codes AS SELECT a AS from_code, b AS to_code, 'note' AS note FROM crosswalk")
    assert crossed.compare(**{**CROSSED, "crosswalk": "codes"}).verdicts == {"kept": 1, "moved": 2, "unmapped": 3}


def test_an_empty_crosswalk_leaves_every_code_unmapped(crossed):
    crossed.add_crosswalk()
    changes = crossed.compare(**CROSSED)
    assert changes.verdicts == {"kept": 0, "moved": 0, "unmapped": 6}
    assert list(changes.agreement["records"]) == [0] * 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "'nowhere' is not a table or view of the warehouse that runs may read"),
        ("nowhere.codes", "'nowhere.codes' is not a table or view"),
        ("a..b", "'a..b' is not a table or view of the warehouse that runs may read"),
        ("coding.coded_texts", "'coding.coded_texts' is not a table or view of the warehouse that runs may read"),
        ("/etc/passwd", "'/etc/passwd' is not a table or view of the warehouse that runs may read"),
        ("/etc/pass*", r"'/etc/pass\*' is not a table or view of the warehouse that runs may read"),
        ("https://127.0.0.1:1/a.csv", "'https://127.0.0.1:1/a.csv' is not a table or view of the warehouse"),
        ("crosswalk", r"'crosswalk' has the columns \['old', 'to_code'\]. Create a view with \['from_code'\]"),
    ],
)
def test_a_crosswalk_that_does_not_exist_or_lacks_a_column_is_an_error(crossed, name, message):
    crossed.add_crosswalk(columns="old VARCHAR(9), to_code VARCHAR(9)")
    with pytest.raises(SourceError, match=f"crosswalk {message}"):
        crossed.compare(**{**CROSSED, "crosswalk": name})


def test_samples_are_moved_records_one_for_each_text_in_the_order_of_the_keys(empty):
    moved = [(str(number), 1, "351311", 0.9) for number in range(40)]
    same = {str(number): "the same" for number in range(10)}
    empty.add(MODEL, 1.0, moved, texts=same)
    empty.add(OTHER_MODEL, 2.0, [(row[0], 1, "351411", 0.9) for row in moved[:-1]] + moved[-1:], texts=same)
    samples = empty.compare(samples=1000).samples
    assert sorted(samples["record_id"], key=int) == ["0", *map(str, range(10, 39))]
    assert list(samples["text_key"]) == sorted(samples["text_key"])
    assert samples.set_index("record_id")["records_with_text"].to_dict()["0"] == 10
    assert rows(empty.compare(samples=5).samples) == rows(samples)[:5]
    assert empty.compare(samples=0).samples.empty


def test_texts_of_the_samples_are_in_the_report_only_on_request_and_never_in_the_log(coded, caplog):
    caplog.set_level("DEBUG")
    coded.add_text(OTHER_MODEL, "hushed | <b>title", "hushed tasks")
    coded.add_text(MODEL, "hushed by another model", "")
    text, picture = coded.write()
    assert "hushed" not in text + picture
    text, picture = coded.write(with_texts=True)
    assert "| hushed &#124; &#60;b&#62;title | hushed tasks |" in text.replace("  ", "")
    assert "another model" not in text
    assert "hushed" not in picture + caplog.text
    assert "# What changed between two models" in caplog.text


def test_the_report_states_what_was_compared_and_the_outcomes_of_the_records(coded):
    text, _ = coded.write(to_date=DAY)
    assert f"Before: topic `osca`, model `{MODEL}` (version 1.0). After: topic `osca`, model `{OTHER_MODEL}`" in text
    assert f"Response dates: the first to {DAY}." in text
    assert "- Records in both models: 9; only before: 1; only after: 1.\n" in text
    assert "- Coded by both models: 6. Kept their code: 2 (33.3%); moved to another one: 4 (66.7%).\n" in text
    assert "- Gained a code: 1; lost their code: 1.\n" in text
    assert "crosswalk" not in text


def test_a_label_of_the_service_can_be_no_link_and_no_image_in_the_report(coded):
    label = "![](https://attacker.example/pixel) [Cook](https://attacker.example)"
    coded.run("UPDATE coding.coded_records SET label = ? WHERE code = '351411'", label)
    text, _ = coded.write()
    assert "&#33;&#91;&#93;(https://attacker.example/pixel)" in text
    assert "](https://attacker" not in text


def test_the_picture_is_svg_with_bars_as_long_as_the_shares(coded):
    coded.run("UPDATE coding.coded_records SET label = ? WHERE code = '351411'", "Cook & \x07<chef>")
    root = ET.fromstring(coded.write()[1])
    name = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in root.iter(f"{name}text")]
    assert "351311 Chef → 351411 Cook & <chef>" in words
    assert "80.0% of 5" in words
    bars = [float(bar.get("width")) for bar in root.iter(f"{name}rect") if bar.get("fill") == "#8bb174"]
    whole = {float(bar.get("width")) for bar in root.iter(f"{name}rect") if bar.get("fill") == "#eef2f6"}.pop()
    assert [round(bar / whole, 2) for bar in bars] == [0.8, 1.0, 1.0, 0.5, 0.33, 0.33]


def test_models_without_a_record_that_both_coded_still_have_a_report(empty):
    empty.add(MODEL, 1.0, [("1", 1, "uncoded", None)])
    empty.add(OTHER_MODEL, 2.0, [("1", 1, "uncoded", None)])
    text, picture = empty.write(with_texts=True)
    assert "- Coded by both models: 0. Kept their code: 0; moved to another one: 0.\n" in text
    assert "None." in picture


def test_every_record_of_random_codings_is_counted_exactly_once(empty):
    """The counts equal those of a second implementation, which goes through the records one by one."""
    rng = random.Random(20261005)
    codes = ["351311", "351312", "3513", "351", "254411", "25", "9", "uncoded", "rejected"]
    both = [
        {(str(number), rng.randint(1, 2)): rng.choice(codes) for number in range(150) if rng.random() < 0.9}
        for _ in range(2)
    ]
    for model, version, codings in zip((MODEL, OTHER_MODEL), (1.0, 2.0), both, strict=True):
        empty.add(model, version, [(*record, code, 0.5) for record, code in codings.items()])
    changes, (before, after) = empty.compare(), both
    pairs = Counter((before[record], after[record]) for record in before.keys() & after.keys())
    assert changes.outcomes.values.sum() == changes.in_both == pairs.total()
    assert changes.in_both + changes.only_before == len(before)
    assert changes.in_both + changes.only_after == len(after)
    coded = Counter({pair: count for pair, count in pairs.items() if not {*pair} & {"uncoded", "rejected"}})
    assert sum(changes.verdicts.values()) == changes.outcomes.loc["coded", "coded"] == coded.total()
    assert changes.verdicts["kept"] == sum(count for (old, new), count in coded.items() if old == new)
    for row in changes.agreement.itertuples():
        eligible = {pair: count for pair, count in coded.items() if min(map(len, pair)) >= row.level}
        agreeing = [count for (old, new), count in eligible.items() if old[: row.level] == new[: row.level]]
        assert (row.records, row.agree) == (sum(eligible.values()), sum(agreeing))


def test_the_page_of_a_comparison_has_its_picture_inside_and_shows_hostile_labels_as_text(coded):
    coded.run("UPDATE coding.coded_records SET label = '<script>alert(1)</script>' WHERE code = '351411'")
    _, picture = coded.write()
    page = (coded.folder / "report" / "report.html").read_text(encoding="utf-8")
    data = json.loads((coded.folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert picture.strip() in page
    assert 'role="img"' in picture
    assert "<script" not in page + picture
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page
    assert data["facts"]["moved"] == 4
    (agreement,) = [section for section in data["sections"] if section["title"] == "Agreement by level"]
    assert agreement["rows"][0] == [1, 5, 4, 0.8]
    assert '<td class="number">80.0%</td>' in page
