"""Keys of runs: those of all DAGs differ, and those of the main DAG are its run ids."""

import pytest

from include.coding.run_keys import MAIN_DAG_ID, make_run_key, split_run_key
from include.pipeline.names import RECODE_DAG_ID

RUNS = [
    (MAIN_DAG_ID, "scheduled__2026-10-05T14:00:00+00:00"),
    ("recode_labour_force", "scheduled__2026-10-05T14:00:00+00:00"),
    ("recode_graduates", "manual/with a slash"),
    (MAIN_DAG_ID, "recode_graduates/manual/with a slash"),
]


def test_the_main_dag_is_that_of_the_pipeline():
    assert MAIN_DAG_ID == RECODE_DAG_ID


def test_the_key_of_a_run_of_the_main_dag_is_its_id():
    assert make_run_key(MAIN_DAG_ID, "manual__1") == "manual__1"


@pytest.mark.parametrize(("dag_id", "run_id"), RUNS)
def test_a_key_names_its_run(dag_id, run_id):
    assert split_run_key(make_run_key(dag_id, run_id)) == (dag_id, run_id)


def test_no_two_runs_have_the_same_key():
    assert len({make_run_key(*run) for run in RUNS}) == len(RUNS)
