"""Imported classifications as topics, and several versions of a model."""

import json

import pytest

from include.local_service.coder.classifications import SHIPPED_CLASSIFICATION, write_first_edition
from include.local_service.core.catalogue import ImportedTopicError
from include.local_service.http.server import LocalService
from tests.local_service.conftest import read_lines, to_jsonl

SHIPPED_ROWS = [json.loads(line) for line in SHIPPED_CLASSIFICATION.read_text().splitlines()]


def write_topic(data_dir, topic, rows, **names):
    """Write the files of an imported classification."""
    folder = data_dir / "classifications"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{topic}.jsonl").write_text(to_jsonl(*rows))
    names = {"fullName": f"{topic} of the test", "topicVersion": "2024", "occupations": len(rows), **names}
    (folder / f"{topic}.json").write_text(json.dumps(names))


def rows_below(code):
    """Return the part of the shipped classification below a code, as a classification."""
    return [row for row in SHIPPED_ROWS if row["code"].startswith(code) or code.startswith(row["code"])]


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def test_an_imported_classification_replaces_the_shipped_one(data_dir, start):
    write_topic(data_dir, "osca", rows_below("1"), fullName="OSCA as imported")
    caller = start()
    assert {topic["uriName"]: topic["fullName"] for topic in caller.get("topics").json()} == {
        "osca": "OSCA as imported",
        "anzsco": "Local sample classification (small, for trials; not ANZSCO itself)",
    }
    imported = caller.get("topics/osca/models/latest").json()
    assert (imported["topicStandard"], imported["topicVersion"]) == ("OSCA as imported", "2024")


def test_an_imported_classification_with_a_new_name_adds_a_topic(data_dir, start):
    write_topic(data_dir, "isco", rows_below("1"))
    caller = start()
    assert [topic["uriName"] for topic in caller.get("topics").json()] == ["osca", "anzsco", "isco"]
    model = caller.get("topics/isco/models/latest").json()["modelId"]
    assert caller.post(f"topics/osca/models/{model}/batch-code").status_code == 409


def test_models_of_another_classification_have_other_ids(data_dir, start, caller):
    write_topic(data_dir, "osca", rows_below("1"))
    ids = [{model["modelId"] for model in one.get("topics/osca/models").json()} for one in (start(), caller)]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("names", [None, "", "[]", '{"fullName": "x"}'])
def test_a_topic_without_its_names_file_stops_the_start(data_dir, names):
    write_topic(data_dir, "osca", rows_below("1"))
    path = data_dir / "classifications" / "osca.json"
    path.unlink() if names is None else path.write_text(names)
    with pytest.raises(ImportedTopicError, match=r"osca\.json"):
        LocalService(data_dir, coder="stub").start()


def test_each_topic_is_coded_by_its_own_classification(data_dir, start):
    write_topic(data_dir, "osca", rows_below("1"))
    write_topic(data_dir, "isco", rows_below("2"))
    caller = start(coder="svm")
    body = to_jsonl(*({"occp_text": text, "tasks_text": ""} for text in ("paramedic", "nurse", "driver", "cook")))
    for topic, first_digit in (("osca", "1"), ("isco", "2")):
        operation_id = caller.submit(body, topic)
        link = caller.wait_for(operation_id, topic=topic)["responseDownloadUrl"]
        lines = read_lines(caller.session.get(link).text)
        codes = [one["codeCategory"] for line in lines for one in (line["suggestions"] or [line["result"]])]
        assert {code[0] for code in codes} == {first_digit}


@pytest.mark.parametrize("coder", ["svm", "stub"])
def test_model_versions_agree_on_most_texts_and_differ_on_some(data_dir, start, coder):
    write_topic(data_dir, "osca", rows_below("1"))
    caller = start(coder=coder)
    caller.fault("new_latest_model")
    models = [model["modelId"] for model in caller.get("topics/osca/models").json()]
    texts = [text for row in rows_below("2") for text in row.get("titles", [])][:300]  # not in the training set
    records = [{"occp_text": text, "tasks_text": ""} for text in texts]
    responses = [
        caller.post(f"topics/osca/models/{model}/code", json={"records": records}).json() for model in models
    ]
    for older, newer in ((responses[0], responses[1]), (responses[1], responses[2])):
        changed = sum(one["result"] != other["result"] for one, other in zip(older, newer, strict=True))
        assert changed > 0
    codes = [
        [line["result"][:1] and line["result"][0]["codeCategory"] for line in response] for response in responses
    ]
    agreements = sum(one == other for one, other in zip(codes[0], codes[1], strict=True))
    assert len(texts) / 2 < agreements < len(texts)


def test_the_first_edition_has_every_code_and_fewer_examples(tmp_path):
    path = write_first_edition(SHIPPED_CLASSIFICATION, tmp_path / "first.jsonl")
    rows = read_lines(path.read_text())
    assert [(row["code"], row["label"]) for row in rows] == [(row["code"], row["label"]) for row in SHIPPED_ROWS]
    for name in ("titles", "tasks"):
        counts = [sum(len(row.get(name, [])) for row in some) for some in (rows, SHIPPED_ROWS)]
        assert 0.6 < counts[0] / counts[1] < 0.85
        assert all(
            set(row.get(name, [])) <= set(complete.get(name, []))
            for row, complete in zip(rows, SHIPPED_ROWS, strict=True)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["first.jsonl"]
