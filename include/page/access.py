"""Who may see what on the page: Airflow's own rules on the DAGs of `recode_dag`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel, DagTag
from fastapi import Depends, HTTPException, Query, status
from sqlalchemy import select
from sqlalchemy.orm import Session

from include.pipeline.names import COMPARE_DAG_ID, RECODE_DAG_ID, RECODE_TAG

#: What a person must be allowed to read of a DAG: the page shows its runs, their tasks, and counts from their XComs.
ENTITIES = (DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE, DagAccessEntity.XCOM)


@dataclass(frozen=True)
class View:
    """What a person sees.

    :param dag_id: the DAG whose runs are shown
    :param dag_ids: all DAGs that the person can choose from
    :param can_read_setup: whether the person may read connections, pools and variables
    """

    dag_id: str
    dag_ids: tuple[str, ...]
    can_read_setup: bool


class OtherDagError(Exception):
    """The tab of a run is shown on the runs of every DAG, and this one is not of a DAG that the page shows.

    :param is_comparison: whether it is a comparison that the person may read, whose report can be shown
    """

    def __init__(self, *, is_comparison: bool) -> None:
        super().__init__()
        self.is_comparison = is_comparison


def read_view(
    user: GetUserDep,
    session: SessionDep,
    dag: Annotated[str, Query(max_length=250)] = "",
    tab: Annotated[bool, Query()] = False,
) -> View:
    """Return what the person who asks sees.

    :param dag: the DAG that the person has chosen; empty for the main one
    :param tab: whether the page is shown as a tab of a run in Airflow
    :raises HTTPException: 401: nobody is logged in; 403: the person may not read the DAG, or it does not exist
    :raises OtherDagError: the same for a tab, whether or not the DAG exists
    """
    dag_ids = tuple(dag_id for dag_id in _list_dags(session) if _can_read_dag(user, dag_id))
    if not (dag in dag_ids if dag else dag_ids):
        if tab:
            raise OtherDagError(is_comparison=dag == COMPARE_DAG_ID and can_read_comparisons(user))
        raise HTTPException(status.HTTP_403_FORBIDDEN, "you may not read the runs of this DAG, or it does not exist")
    main = RECODE_DAG_ID if RECODE_DAG_ID in dag_ids else dag_ids[0]
    return View(dag or main, dag_ids, _can_read_setup(user))


def can_read_comparisons(user: GetUserDep) -> bool:
    """Return whether the person may read the runs of `compare_models`, which is another DAG."""
    return _can_read_dag(user, COMPARE_DAG_ID)


def read_report_dag(user: GetUserDep, session: SessionDep, dag: Annotated[str, Query(max_length=250)] = "") -> str:
    """Return the DAG whose reports the person asks for: one that the page shows, or `compare_models`.

    :param dag: as in :func:`read_view`
    :raises HTTPException: as in :func:`read_view`
    """
    if dag == COMPARE_DAG_ID and can_read_comparisons(user):
        return dag
    return read_view(user, session, dag).dag_id


def _list_dags(session: Session) -> list[str]:
    """Return the ids of the DAGs that `recode_dag` made; the main one before Airflow has parsed any."""
    query = select(DagTag.dag_id).join(DagModel, DagModel.dag_id == DagTag.dag_id)
    dags = session.scalars(
        query.where(DagTag.name == RECODE_TAG, DagModel.is_stale.is_(False)).order_by(DagTag.dag_id)
    )
    return list(dags) or [RECODE_DAG_ID]


def _can_read_dag(user: BaseUser, dag_id: str) -> bool:
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    manager = get_auth_manager()
    return all(
        manager.is_authorized_dag(method="GET", access_entity=entity, details=details, user=user)
        for entity in ENTITIES
    )


def _can_read_setup(user: BaseUser) -> bool:
    manager = get_auth_manager()
    return (
        manager.is_authorized_connection(method="GET", user=user)
        and manager.is_authorized_pool(method="GET", user=user)
        and manager.is_authorized_variable(method="GET", user=user)
    )


ViewDep = Annotated[View, Depends(read_view)]
ReportDagDep = Annotated[str, Depends(read_report_dag)]
ComparisonRightDep = Annotated[bool, Depends(can_read_comparisons)]
