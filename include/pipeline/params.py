"""The check that the configuration of a run means what its author thinks it means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from include.coding.errors import PlanError
from include.coding.misspellings import suggest_names
from include.pipeline.run_metadata import CONF_KEY

#: Keys that the project, Airflow and its OpenLineage provider add to the configuration of a run.
ADDED_KEYS, ADDED_PREFIX = (CONF_KEY, "openlineage"), "airflow/"


def check_params(params: Mapping[str, Any], conf: Mapping[str, Any] | None, names: Collection[str]) -> None:
    """Raise :class:`PlanError` if a key of the configuration has no effect. Airflow accepts every key.

    :param params: params of the run, as its tasks get them: the defaults, and all keys of the configuration
    :param conf: configuration that the run was started with
    :param names: names of the params of the DAG
    """
    keys = {key for key in {*params, *(conf or {})} if key not in ADDED_KEYS and not key.startswith(ADDED_PREFIX)}
    if unknown := keys.difference(names):
        raise PlanError(
            f"the configuration of the run has unknown keys: {suggest_names(unknown, names)}. Nothing was sent. Start"
            f" a new run with the right keys; the DAG has {sorted(names)}"
        )
    if ignored := sorted(key for key in keys.intersection(conf or {}) if params.get(key) != (conf or {})[key]):
        raise PlanError(
            f"Airflow ignores the keys {ignored} of the run's configuration. Nothing was sent. Set"
            " AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS to True and clear this task, or start the run without them"
        )
