"""Which run in progress sends which texts, so that runs of different dates do not pay for the same text twice.

A run claims the texts that it sends in the table `text_claims`, when it prepares them. A run that prepares later
leaves them out of its parts. When the results of its own parts are stored, it looks for those of the other run. It
waits for them as long as that run is in progress, but no longer than its operation takes; then it sends the texts
itself. If the other run has ended, it claims them first, so that only one of several runs that wait sends them. So no
run depends on another one, and each text has a result in the end, whatever happens to the run that claimed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from include.coding.engine import Engine, create_table
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.coding.results import INPUT_LINES
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session, Warehouse

#: Claims of a run that ended without removing them are removed by others after this time at the latest.
MAX_CLAIM_AGE = timedelta(days=30)
#: Runs that send more texts claim none and leave none out: writing the claims would take longer than it could save,
#: because such runs are rarely in progress at the same time.
MAX_CLAIMED_TEXTS = 100_000
#: SQL condition that a row is about one of the staged `run_texts`; its values are the topic and the model.
OF_RUN_TEXTS = "topic = ? AND model_id = ? AND text_key IN (SELECT text_key FROM run_texts)"


@dataclass(frozen=True)
class Undelivered:
    """The texts that a run awaits and that have no result.

    :param awaited: number of texts that the run awaited at first, with those that have a result now
    :param texts: number of texts without a result
    :param claimants: other runs that claim some of these, each with the number of all texts that it claims
    """

    awaited: int
    texts: int
    claimants: Mapping[str, int]


def claim_texts(
    engine: Engine,
    plan: Plan,
    warehouse: Warehouse,
    is_in_progress: Callable[[str], bool],
    *,
    can_await: bool = True,
) -> int:
    """Claim the texts of the engine's table `memory.new_texts` for a run, and move those that other runs in progress
    have claimed to the table `awaited_texts`. Return how many texts have got a result since they were looked up;
    these are removed as well.

    Of two runs that claim a text at the same time, exactly one gets it. If others have claimed all of the texts, the
    run sends them too, because it has nothing else to do meanwhile.

    :param is_in_progress: returns whether the run with this key is queued or running
    :param can_await: whether texts can be left to other runs
    """
    engine.execute("CREATE TABLE awaited_texts AS FROM memory.new_texts LIMIT 0")
    ((texts,),) = engine.execute("SELECT count(*) FROM memory.new_texts").fetchall()
    if plan.selection != "uncoded" or plan.dry_run or plan.force_new or not 0 < texts <= MAX_CLAIMED_TEXTS:
        return 0
    keys = "SELECT text_key FROM memory.new_texts"
    _claim_free_texts(engine, plan, warehouse, is_in_progress, keys, replaces_claims=True)
    if not can_await:
        engine.execute("DELETE FROM other_claims")
    return _divide_texts(engine)


def take_over_texts(engine: Engine, plan: Plan, warehouse: Warehouse, is_in_progress: Callable[[str], bool]) -> int:
    """Claim the texts of the engine's table `undelivered_texts` that no other run in progress has claimed, remove the
    others from it, and return how many remain.

    :param is_in_progress: returns whether the run with this key is queued or running
    """
    keys = "SELECT recordId AS text_key FROM undelivered_texts"
    _claim_free_texts(engine, plan, warehouse, is_in_progress, keys)
    for name in ("other_claims", "recent_results"):
        engine.execute(f"DELETE FROM undelivered_texts WHERE recordId IN (SELECT text_key FROM {name})")  # noqa: S608
    ((texts,),) = engine.execute("SELECT count(*) FROM undelivered_texts").fetchall()
    return int(texts)


def _claim_free_texts(
    engine: Engine,
    plan: Plan,
    warehouse: Warehouse,
    is_in_progress: Callable[[str], bool],
    keys: str,
    *,
    replaces_claims: bool = False,
) -> None:
    """Claim the texts that no other run in progress has claimed. Create the engine's tables `other_claims`, the keys
    that such runs have claimed, and `recent_results`, the keys that have got a result since they were looked up.

    :param keys: query of the engine for the keys of the texts
    :param replaces_claims: whether to remove the earlier claims of the run
    """
    released = {plan.run_id} if replaces_claims else set()
    states: dict[str, bool] = {}
    while unknown := _try_to_claim(engine, plan, warehouse, states, keys, released):
        # Asked outside the session, because others wait for it.
        states |= {run_id: is_in_progress(run_id) for run_id in sorted(unknown)}


def _try_to_claim(
    engine: Engine, plan: Plan, warehouse: Warehouse, states: Mapping[str, bool], keys: str, released: set[str]
) -> set[str]:
    """Claim texts as :func:`_claim_free_texts` does, and return the claimants of unknown state. If there are any,
    nothing was done.

    :param states: whether these claimants are in progress
    :param released: runs whose claims are removed, as those of claimants that have ended are
    """
    claims, model = table(plan.schema, "text_claims"), [plan.topic, plan.model_id]
    with (
        warehouse.session() as session,
        session.staged("run_texts", Query(engine, keys)),
        session.transaction(lock=claims),
    ):
        now, text = session.now(), session.dialect.text
        session.execute(f"DELETE FROM {claims} WHERE claimed_at < ?", [now - MAX_CLAIM_AGE])  # noqa: S608
        claimants = session.execute(f"SELECT DISTINCT run_id FROM {claims} WHERE {OF_RUN_TEXTS}", model)  # noqa: S608
        others = {run_id for (run_id,) in claimants} - {plan.run_id}
        if unknown := others - states.keys():
            return unknown
        ended = {run_id for run_id in others if not states[run_id]}
        release_texts(session, plan, sorted(ended | released))
        query = f"SELECT text_key FROM {claims} WHERE {OF_RUN_TEXTS} AND run_id <> ?"  # noqa: S608
        other_claims = session.read(query, [*model, plan.run_id]).read_all()
        # Read after the claims, because a run stores its results before it releases its claims.
        coded_texts = table(plan.schema, "coded_texts")
        query = f"SELECT DISTINCT text_key FROM {coded_texts} WHERE {OF_RUN_TEXTS}"  # noqa: S608
        recent_results = session.read(query, model).read_all()
        session.execute(
            f"""
            INSERT INTO {claims}
            SELECT text_key, CAST(? AS {text}), CAST(? AS {text}), CAST(? AS {text}), CAST(? AS TIMESTAMP)
            FROM run_texts WHERE NOT EXISTS (
                SELECT 1 FROM {claims} AS claims
                WHERE claims.text_key = run_texts.text_key AND claims.topic = ? AND claims.model_id = ?
            )
            """,  # noqa: S608
            [*model, plan.run_id, now, *model],
        )
    create_table(engine, "other_claims", other_claims)
    create_table(engine, "recent_results", recent_results)
    return set()


def _divide_texts(engine: Engine) -> int:
    """Leave in `new_texts` what the run sends itself, and return how many texts have a result already."""
    engine.execute(
        """
        CREATE TABLE texts_without_result AS FROM memory.new_texts ANTI JOIN recent_results USING (text_key);
        INSERT INTO awaited_texts FROM texts_without_result SEMI JOIN other_claims USING (text_key)
            WHERE EXISTS (FROM texts_without_result ANTI JOIN other_claims USING (text_key))
        """
    )
    engine.execute(
        "CREATE OR REPLACE TABLE memory.new_texts AS"
        " FROM texts_without_result ANTI JOIN awaited_texts USING (text_key) ORDER BY text_key"
    )
    ((recent_results,),) = engine.execute("SELECT count(*) FROM recent_results").fetchall()
    return int(recent_results)


def release_texts(session: Session, plan: Plan, run_ids: Iterable[str]) -> None:
    """Remove the claims of runs, within a transaction of `session`."""
    for run_id in run_ids:
        session.execute(f"DELETE FROM {table(plan.schema, 'text_claims')} WHERE run_id = ?", [run_id])  # noqa: S608


def find_undelivered_texts(
    engine: Engine, plan: Plan, warehouse: Warehouse, path: Path, sent_files: Sequence[Path]
) -> Undelivered:
    """Create the engine's table `undelivered_texts`: the awaited texts that have no result. Return their numbers.

    :param path: file of the awaited texts, which other runs had claimed, in the form of an input file
    :param sent_files: input files of the texts among them that this run has sent since
    """
    lines = INPUT_LINES.replace("$input", "$path")
    engine.execute(f"CREATE OR REPLACE TABLE undelivered_texts AS FROM {lines}", {"path": escape_glob(path)})
    ((awaited,),) = engine.execute("SELECT count(*) FROM undelivered_texts").fetchall()
    for file in sent_files:
        engine.execute(
            f"DELETE FROM undelivered_texts WHERE recordId IN (SELECT recordId FROM {lines})",  # noqa: S608
            {"path": escape_glob(file)},
        )
    model = [plan.topic, plan.model_id]
    with (
        warehouse.session(read_only=True) as session,
        session.staged("run_texts", Query(engine, "SELECT recordId AS text_key FROM undelivered_texts")),
    ):
        claims, coded_texts = table(plan.schema, "text_claims"), table(plan.schema, "coded_texts")
        claimants = session.execute(
            f"""
            SELECT run_id, count(*) FROM {claims} WHERE run_id <> ? AND run_id IN (
                SELECT run_id FROM {claims} AS claims WHERE {OF_RUN_TEXTS} AND NOT EXISTS (
                    SELECT 1 FROM {coded_texts} AS texts
                    WHERE texts.text_key = claims.text_key AND texts.topic = ? AND texts.model_id = ?
                )
            ) GROUP BY run_id
            """,  # noqa: S608
            [plan.run_id, *model, *model],
        )
        results = session.read(f"SELECT text_key FROM {coded_texts} WHERE {OF_RUN_TEXTS}", model).read_all()  # noqa: S608
    create_table(engine, "delivered_texts", results)
    engine.execute("DELETE FROM undelivered_texts WHERE recordId IN (SELECT text_key FROM delivered_texts)")
    ((undelivered,),) = engine.execute("SELECT count(*) FROM undelivered_texts").fetchall()
    return Undelivered(awaited, undelivered, dict(claimants))
