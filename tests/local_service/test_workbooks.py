"""The import: the ABS workbooks as released, the same tables as CSV, and the errors for anything else."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from openpyxl import Workbook

from include.local_service.coder.hierarchy import Category, ClassificationError, read_categories
from include.local_service.coder.workbooks import (
    TopicNameError,
    WorkbookError,
    count_levels,
    import_classification,
    import_workbooks,
)
from tests.local_service.conftest import SHARED_DATA

OSCA_LEVELS = {1: 8, 2: 53, 3: 111, 4: 421, 6: 1156}
ANZSCO_LEVELS = {1: 8, 2: 43, 3: 99, 4: 364, 6: 1076}

Rows = Sequence[Sequence[object]]

STRUCTURE: Rows = [
    ["Structure of the trades, 2031"],
    ["Identifier"],
    [1, "Crafts", None, None, None, None, None],
    [None, 11, "Food crafts", None, None, None, None],
    [None, None, 111, "Bread crafts", None, None, None],
    [None, None, None, 1111, "Bakers", None, None],
    [None, None, None, None, 111131, "Baker", 3],
    [None, None, None, None, 111199, "Bakers nec", 3],
]
DESCRIPTIONS: Rows = [
    ["All trades"],
    ["Identifier", "Principal Title", "Alternative Title", "Lead Statement", "Skill Level", "Main Tasks",
     "Specialisations", "Occupation in NEC category"],
    [111131, "Baker", "Bread Maker; Baker", "Bakes bread.", 3, "Kneads dough; Heats ovens", "Pretzel Baker", None],
    [111199, "Bakers nec", None, "This occupation group covers Bakers nec.", 3, None, None, "Wafer Baker"],
]  # fmt: skip
INDEX: Rows = [
    ["Code", "Title", "Category"],
    ["111131", "bread maker", "Alternative Title"],
    ["111131", "Boulanger", ""],
]


def write_workbook(path: Path, **sheets: Rows) -> Path:
    workbook = Workbook()
    workbook.remove(workbook.worksheets[0])
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    workbook.save(path)
    return path


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def structure(tmp_path: Path) -> Path:
    flat = [["Code", "Title"], ["111131", "Baker"], ["111199", "Bakers nec"]]
    return write_workbook(tmp_path / "structure.xlsx", Contents=[["Contents"]], Flat=flat, Whole=STRUCTURE)


@pytest.fixture
def descriptions(tmp_path: Path) -> Path:
    return write_workbook(tmp_path / "descriptions.xlsx", Contents=[["Contents"]], All=DESCRIPTIONS)


@pytest.fixture(scope="session")
def anzsco(released_workbooks: Path, once_per_run: Callable[..., list[Category]]) -> list[Category]:
    (index,) = released_workbooks.glob("anzsco 2022 index*.xlsx")
    structure = released_workbooks / "anzsco 2022 structure 062023.xlsx"
    return once_per_run("anzsco", lambda: import_workbooks(structure, index=index))


def titles_by_code(categories: Sequence[Category]) -> dict[str, set[str]]:
    return {one.code: {title.casefold() for title in one.titles} for one in categories if one.titles}


def tasks_by_code(categories: Sequence[Category]) -> dict[str, list[str]]:
    return {one.code: list(one.tasks) for one in categories if one.titles}


# ---------------------------------------------------------------- the workbooks as released


def test_osca_is_imported_with_every_category_of_every_level(osca: list[Category]) -> None:
    assert count_levels(osca) == OSCA_LEVELS


def test_anzsco_is_imported_with_every_category_of_every_level(anzsco: list[Category]) -> None:
    assert count_levels(anzsco) == ANZSCO_LEVELS


def test_osca_has_the_same_titles_and_tasks_as_an_independent_import(osca: list[Category]) -> None:
    lines = (SHARED_DATA / "osca2024_occupations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["code"]: row for row in map(json.loads, lines)}
    kinds = ("alternative_titles", "specialisations", "nec")
    labels = {one.code: one.label.casefold() for one in osca}
    titles = {
        code: {labels[code], *(t.casefold() for kind in kinds for t in row[kind])} for code, row in rows.items()
    }
    assert titles_by_code(osca) == titles
    leads = {code: [row["lead"]] if not row["title"].endswith(" nec") else [] for code, row in rows.items()}
    assert tasks_by_code(osca) == {code: [*leads[code], *row["tasks"]] for code, row in rows.items()}


def test_the_same_tables_as_csv_give_the_same_classification(osca: list[Category], anzsco: list[Category]) -> None:
    for name, imported in (("osca2024", osca), ("anzsco2022", anzsco)):
        from_csv = import_workbooks(SHARED_DATA / f"{name}.csv", index=SHARED_DATA / f"{name}_index.csv")
        assert [(one.code, one.label) for one in from_csv] == [(one.code, one.label) for one in imported]
        differing = {c for c, titles in titles_by_code(from_csv).items() if titles != titles_by_code(imported)[c]}
        # For one label of OSCA the wording of the index differs from that of the structure.
        assert differing <= {"261999"}


# ---------------------------------------------------------------- content of the tables


def test_titles_and_tasks_are_split_and_the_label_comes_first(structure: Path, descriptions: Path) -> None:
    *groups, baker, others = import_workbooks(structure, descriptions)
    assert [(group.code, group.label) for group in groups] == [
        ("1", "Crafts"), ("11", "Food crafts"), ("111", "Bread crafts"), ("1111", "Bakers")
    ]  # fmt: skip
    assert baker.titles == ("Baker", "Bread Maker", "Pretzel Baker")
    assert baker.tasks == ("Bakes bread.", "Kneads dough", "Heats ovens")
    assert others.titles == ("Bakers nec", "Wafer Baker")


def test_the_lead_statement_of_a_nec_occupation_is_ignored(structure: Path, descriptions: Path) -> None:
    assert import_workbooks(structure, descriptions)[-1].tasks == ()


def test_an_index_adds_each_title_once(tmp_path: Path, structure: Path, descriptions: Path) -> None:
    index = write_csv(tmp_path / "index.csv", INDEX)
    baker = import_workbooks(structure, descriptions, index)[-2]
    assert baker.titles == ("Baker", "Bread Maker", "Pretzel Baker", "Boulanger")


def test_with_only_a_structure_the_labels_are_the_titles(structure: Path) -> None:
    assert [one.titles for one in import_workbooks(structure)][-2:] == [("Baker",), ("Bakers nec",)]


@pytest.mark.parametrize(
    "rows",
    [
        STRUCTURE,
        [
            ["code", "level", "title", "parent"],
            ["1", "1", "Crafts", ""],
            ["11", "2", "Food crafts", "1"],
            ["111", "3", "Bread crafts", "11"],
            ["1111", "4", "Bakers", "111"],
            ["111131", "6", "Baker", "1111"],
            ["111199", "6", "Bakers nec", "1111"],
        ],
    ],
    ids=["as the sheet", "code, level, title, parent"],
)
def test_a_structure_can_be_csv_in_either_format(tmp_path: Path, structure: Path, rows: Rows) -> None:
    assert import_workbooks(write_csv(tmp_path / "structure.csv", rows)) == import_workbooks(structure)


# ---------------------------------------------------------------- errors


def test_the_error_for_a_wrong_structure_describes_each_sheet(descriptions: Path) -> None:
    with pytest.raises(WorkbookError) as error_info:
        import_workbooks(descriptions)
    assert "descriptions.xlsx: no sheet has codes of 1, 2, 3, 4, 6 digits" in str(error_info.value)
    assert "sheet 'All' has codes of [6] digits" in str(error_info.value)


def test_the_error_for_missing_columns_names_them(structure: Path) -> None:
    with pytest.raises(WorkbookError, match=r"structure.xlsx: .*'lead statement'.*: 'Contents', 'Flat', 'Whole'"):
        import_workbooks(structure, structure)
    with pytest.raises(WorkbookError, match=r"structure.xlsx: .*'description' or 'title', 'category'"):
        import_workbooks(structure, None, structure)


def test_descriptions_of_another_edition_are_refused(tmp_path: Path, structure: Path) -> None:
    index = write_csv(tmp_path / "index.csv", [["code", "title", "category"], ["999931", "Cooper", ""]])
    with pytest.raises(WorkbookError, match=r"index.csv: codes that are not in the structure: \['999931'\]"):
        import_workbooks(structure, index=index)


@pytest.mark.parametrize(
    "make_unreadable",
    [
        lambda path: path.with_name("nowhere.xlsx"),
        lambda path: path.with_name("nowhere.csv"),
        lambda path: path.rename(path.with_name("structure.docx")),
        lambda path: (path.write_bytes(b"PK no zip"), path)[1],
        lambda path: (path.with_name("latin.csv").write_bytes(b"1,caf\xe9"), path.with_name("latin.csv"))[1],
        lambda path: path.parent,
    ],
    ids=["no workbook", "no csv", "other ending", "no zip", "not utf-8", "a folder"],
)
def test_the_error_for_an_unreadable_file_names_the_file(
    structure: Path, make_unreadable: Callable[[Path], Path]
) -> None:
    path = make_unreadable(structure)
    with pytest.raises(WorkbookError, match="cannot be read as a workbook") as error_info:
        import_workbooks(path)
    assert str(error_info.value).startswith(str(path))


def test_a_structure_with_a_gap_is_refused(tmp_path: Path) -> None:
    rows = [*STRUCTURE, [None, None, None, None, 112131, "Miller", 3]]
    with pytest.raises(ClassificationError, match=r"missing categories.*112"):
        import_workbooks(write_csv(tmp_path / "gap.csv", rows))


# ---------------------------------------------------------------- the imported files


def test_an_import_writes_the_classification_and_its_names(
    tmp_path: Path, structure: Path, descriptions: Path
) -> None:
    path = import_classification(
        tmp_path / "data", "trades", structure, descriptions, full_name="Trades of 2031", topic_version="2031 v1"
    )
    assert path == tmp_path / "data" / "classifications" / "trades.jsonl"
    assert read_categories(path.read_bytes()) == import_workbooks(structure, descriptions)
    assert json.loads(path.with_suffix(".json").read_text()) == {
        "fullName": "Trades of 2031",
        "topicVersion": "2031 v1",
        "occupations": 2,
    }
    assert sorted(file.name for file in path.parent.iterdir()) == ["trades.json", "trades.jsonl"]


def test_a_failed_import_does_not_change_the_earlier_one(tmp_path: Path, structure: Path, descriptions: Path) -> None:
    path = import_classification(tmp_path, "trades", structure, descriptions)
    before = path.read_bytes()
    with pytest.raises(WorkbookError):
        import_classification(tmp_path, "trades", descriptions)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../trades", "Trades", "a b", "-a", "a/b", "a\n"])
def test_a_topic_name_that_does_not_fit_into_a_url_is_refused(tmp_path: Path, structure: Path, name: str) -> None:
    with pytest.raises(TopicNameError, match="lower-case letters, digits and hyphens"):
        import_classification(tmp_path / "data", name, structure)
    assert not (tmp_path / "data").exists()
