"""The DAG `compare_models`: its schedule and its form."""

from __future__ import annotations

from typing import Any

import pytest

from include.comparison.comparison import Comparison


@pytest.fixture(scope="module")
def dag() -> Any:
    import compare_models

    return compare_models.dag


def test_it_runs_only_on_demand_and_is_not_paused_at_first(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.is_paused_upon_creation is False
    assert dag.task_ids == ["compare"]


def test_the_defaults_of_the_form_are_valid_and_make_a_comparison(dag: Any) -> None:
    defaults = dag.params.validate()
    assert defaults == {
        "topic": "osca", "model_before": "previous", "model_after": "newest", "from_date": None, "to_date": None,
        "topic_after": None, "crosswalk": None, "samples": 50, "with_texts": False,
        "schema": None,
    }  # fmt: skip
    del defaults["schema"]  # the task takes that of the tables
    assert Comparison(**defaults) == Comparison("osca")


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", -1), ("samples", 1001), ("samples", 1.5), ("from_date", "May"), ("with_texts", "no"), ("topic", ""),
     ("model_after", None)],
)  # fmt: skip
def test_the_form_refuses_a_value_that_cannot_work(dag: Any, name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_every_param_of_the_form_has_a_title_and_help(dag: Any) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert "title" in param.schema, name
        assert param.description or param.schema["description_md"], name
