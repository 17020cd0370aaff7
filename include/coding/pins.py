"""The model of a backfill, `pinned_models`: its first run asks the service, the others follow."""

from __future__ import annotations

from collections.abc import Callable

from include.coding.tables import create_tables, table
from include.warehouse.warehouse import Warehouse

#: GUID and version of a model.
Pinned = tuple[str, float | None]


def pin_model(
    warehouse: Warehouse, schema: str, backfill: str, topic: str, model: str, ask: Callable[[], Pinned]
) -> Pinned:
    """Return the model that `model` means in a backfill: what its first run was answered, whenever that was.

    :param backfill: what tells the backfill from all others
    :param model: GUID of a model of `topic`, or `latest`
    :param ask: asks the service; not called once it is known
    """
    pins = table(schema, "pinned_models")
    find = f"SELECT model_id, model_version FROM {pins} WHERE backfill = ? AND topic = ? AND model = ?"
    asked = [backfill, topic, model]
    with warehouse.session() as session:
        create_tables(session, schema)
        if known := session.execute(find, asked):
            return known[0]
    model_id, version = ask()  # outside of a session: others may have to wait for this warehouse
    with warehouse.session() as session, session.transaction(lock=pins):
        if not session.execute(find, asked):  # of two runs that begin at once, one is first
            values = [*asked, model_id, version, session.now()]
            session.execute(f"INSERT INTO {pins} VALUES ({', '.join('?' * len(values))})", values)
        return session.execute(find, asked)[0]
