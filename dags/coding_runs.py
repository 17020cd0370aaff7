"""What a run of `recode_occupations` has to know of the service, of the scheduler and of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coding_service.facts import FACTS
from coding_settings import open_warehouse, setting
from include.coding.errors import PlanError
from include.coding.plan import Plan

if TYPE_CHECKING:
    from include.coding.estimate import Estimate
    from include.coding.prepare import Prepared

#: Calls of the service: to plan a run (topics, model), and to code a part (create, status before the upload, twice
#: while it is coded, and for the links), if nothing goes wrong.
CALLS_OF_PLAN, CALLS_OF_PART = 2, 5


def check_airflow(dag_run: Any, name: str) -> None:
    """Say at once what Airflow would keep quiet about: that its scheduler lets tasks wait for a missing pool, and
    that the runs of a backfill cannot know each other.

    :raises PlanError: there is no such pool, or the scheduler has not loaded the plugin
    """
    facts = facts_of(dag_run)
    if facts is None and dag_run.run_type == "backfill":
        raise PlanError(
            "the runs of this backfill would not have one model: the scheduler has not loaded"
            " plugins/coding_service_plugin.py; its log says why. Give it the plugins folder, and start it again"
        )
    if facts is not None and facts["pool"] is None:
        raise PlanError(
            f"there is no pool {name!r}, so no task of `code` would ever start: make it by `airflow pools set {name}"
            " 4 'Operations at once' --include-deferred`, or in the UI under Admin > Pools, then clear this task"
        )


def look_back_of(params: Mapping[str, Any], dag_run: Any) -> int:
    """Days before its own that a run looks at again.

    None, if an earlier night is under way: it looks at most of them, and what it sends is not kept yet.
    """
    earlier = (facts_of(dag_run) or {}).get("earlier")
    return int(params["look_back_days"]) if dag_run.run_type == "scheduled" and not earlier else 0


def pin_model(plan: Plan, dag_run: Any) -> Plan:
    """The plan with the GUID of its model in place of what was asked for; one for all runs of a backfill.

    :raises CodingServiceError: the service does not know the topic or the model, or cannot be asked
    """
    from coding_service import CodingServiceHook
    from include.coding.pins import pin_model

    def ask() -> tuple[str, float | None]:
        model = CodingServiceHook().pin_model(plan.topic, plan.model_id)
        return model.model_id, model.version

    backfill = (facts_of(dag_run) or {}).get("backfill")
    if backfill is None:
        model_id, version = ask()
    else:
        model_id, version = pin_model(
            open_warehouse(plan.engine_memory_mb), plan.schema, backfill, plan.topic, plan.model_id, ask
        )
    return replace(plan, model_id=model_id, model_version=version)


def approval_limit(params: Mapping[str, Any]) -> int | None:
    """Distinct texts above which a person has to approve: the form's number, else the setting's; None: never.

    :raises PlanError: the setting is no number
    """
    if params["approve_above"] is not None:
        return int(params["approve_above"])
    value = setting("CODING_APPROVE_ABOVE", "")
    if value and not value.isdecimal():
        raise PlanError(
            f"the setting CODING_APPROVE_ABOVE is {value!r}; expected a whole number of texts, or nothing"
        )
    return int(value) if value else None


def estimate_sending(prepared: Prepared, dag_run: Any) -> Estimate:
    """What the prepared run sends, and how long that takes at the connection's budget and the pool's size."""
    from coding_service import CodingServiceHook
    from include.coding.estimate import estimate

    pool = (facts_of(dag_run) or {}).get("pool") or {}
    at_once = pool["slots"] if pool.get("include_deferred") and pool["slots"] > 0 else None  # else waits take no slot
    per_second = CodingServiceHook().settings.requests_per_second
    return estimate(prepared.as_dict(), prepared.parts, CALLS_OF_PLAN, CALLS_OF_PART, per_second, at_once)


def facts_of(dag_run: Any) -> dict[str, Any] | None:
    """What the scheduler knows of a run, and its tasks do not: see `plugins/coding_service_plugin.py`. None without
    a scheduler, as in `airflow dags test`."""
    return (dag_run.conf or {}).get(FACTS)
