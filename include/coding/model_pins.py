"""The models of backfills, table `pinned_models`: the first run asks the service, the others use the same answer."""

from __future__ import annotations

from collections.abc import Callable

from include.coding.tables import table, update_tables
from include.warehouse.warehouse import Warehouse

#: GUID and version of a model.
ModelVersion = tuple[str, float | None]


def pin_model(
    warehouse: Warehouse, schema: str, backfill: str, topic: str, model: str, ask_service: Callable[[], ModelVersion]
) -> ModelVersion:
    """Return the model that all runs of a backfill use for `model`: the one that the service named to the first run.

    :param backfill: identifies the backfill
    :param model: GUID of a model of `topic`, or `latest`
    :param ask_service: returns the model according to the service; called only if none is pinned yet
    """
    pins = table(schema, "pinned_models")
    query = f"SELECT model_id, model_version FROM {pins} WHERE backfill = ? AND topic = ? AND model = ?"  # noqa: S608
    key = [backfill, topic, model]
    update_tables(warehouse, schema)
    with warehouse.session(read_only=True) as session:
        if rows := session.execute(query, key):
            return rows[0]
    model_id, version = ask_service()  # outside of a session, because other tasks can be waiting for the warehouse
    with warehouse.session() as session, session.transaction(lock=pins):
        if not session.execute(query, key):  # if two runs ask at the same time, the first answer is kept
            values = [*key, model_id, version, session.now()]
            session.execute(f"INSERT INTO {pins} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        return session.execute(query, key)[0]
