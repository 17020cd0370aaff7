"""Which run in progress sends which texts, so that runs of different dates do not pay for the same text twice.

A run claims the texts that it sends in the table `text_claims`, when it prepares them. A run that prepares later
leaves them out of its parts. When the results of its own parts are stored, it looks for those of the other run. It
waits for them as long as that run is in progress, but no longer than an operation takes; then it sends the texts
itself. So no run depends on another one, and each text has a result in the end, whatever happens to the run that
claimed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from include.coding.engine import Engine
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


def claim_texts(engine: Engine, plan: Plan, warehouse: Warehouse, is_in_progress: Callable[[str], bool]) -> int:
    """Claim the texts of the engine's table `memory.new_texts` for a run, and move those that other runs in progress
    have claimed to the table `claimed_texts`. Return how many texts have got a result since they were looked up;
    these are removed as well.

    Of two runs that claim a text at the same time, exactly one gets it. If others have claimed all of the texts, the
    run sends them too, because it has nothing else to do meanwhile.

    :param is_in_progress: returns whether the run with this key is queued or running
    """
    engine.execute("CREATE TABLE claimed_texts AS FROM memory.new_texts LIMIT 0")
    ((texts,),) = engine.execute("SELECT count(*) FROM memory.new_texts").fetchall()
    if plan.selection != "uncoded" or plan.dry_run or plan.force_new or not 0 < texts <= MAX_CLAIMED_TEXTS:
        return 0
    states: dict[str, bool] = {}
    while unknown := _claim_texts(engine, plan, warehouse, states):
        # Asked outside the session, because others wait for it.
        states |= {run_id: is_in_progress(run_id) for run_id in sorted(unknown)}
    return _divide_texts(engine)


def _claim_texts(engine: Engine, plan: Plan, warehouse: Warehouse, states: Mapping[str, bool]) -> set[str]:
    """Claim the texts that no run in progress has claimed, and create the tables `other_claims` and `late_results` of
    the keys of the others. Return the runs whose state has to be known before; then nothing was done.

    :param states: whether these runs are in progress
    """
    claims, model = table(plan.schema, "text_claims"), [plan.topic, plan.model_id]
    run_texts = "topic = ? AND model_id = ? AND text_key IN (SELECT text_key FROM run_texts)"
    with (
        warehouse.session() as session,
        session.staged("run_texts", Query(engine, "SELECT text_key FROM memory.new_texts")),
        session.transaction(lock=claims),
    ):
        now, text = session.now(), session.dialect.text
        session.execute(f"DELETE FROM {claims} WHERE claimed_at < ?", [now - MAX_CLAIM_AGE])  # noqa: S608
        claimants = session.execute(f"SELECT DISTINCT run_id FROM {claims} WHERE {run_texts}", model)  # noqa: S608
        others = {run_id for (run_id,) in claimants} - {plan.run_id}
        if unknown := others - states.keys():
            return unknown
        release_texts(session, plan, [plan.run_id, *(run_id for run_id in sorted(others) if not states[run_id])])
        other_claims = session.read(f"SELECT text_key FROM {claims} WHERE {run_texts}", model).read_all()  # noqa: S608
        # Read after the claims, because a run stores its results before it releases its claims.
        coded_texts = table(plan.schema, "coded_texts")
        query = f"SELECT DISTINCT text_key FROM {coded_texts} WHERE {run_texts}"  # noqa: S608
        late_results = session.read(query, model).read_all()
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
    for name, rows in (("other_claims", other_claims), ("late_results", late_results)):
        engine.register("rows", rows)
        engine.execute(f"CREATE TABLE {name} AS FROM rows")
        engine.unregister("rows")
    return set()


def _divide_texts(engine: Engine) -> int:
    """Leave in `new_texts` what the run sends itself, and return how many texts have a result already."""
    engine.execute(
        """
        CREATE TABLE unclaimed_texts AS FROM memory.new_texts ANTI JOIN late_results USING (text_key);
        INSERT INTO claimed_texts FROM unclaimed_texts SEMI JOIN other_claims USING (text_key)
            WHERE EXISTS (FROM unclaimed_texts ANTI JOIN other_claims USING (text_key))
        """
    )
    ((late_results,),) = engine.execute("SELECT count(*) FROM late_results").fetchall()
    engine.execute(
        "CREATE OR REPLACE TABLE memory.new_texts AS"
        " FROM unclaimed_texts ANTI JOIN claimed_texts USING (text_key) ORDER BY text_key"
    )
    return int(late_results)


def release_texts(session: Session, plan: Plan, run_ids: Iterable[str]) -> None:
    """Remove the claims of runs, within a transaction of `session`."""
    for run_id in run_ids:
        session.execute(f"DELETE FROM {table(plan.schema, 'text_claims')} WHERE run_id = ?", [run_id])  # noqa: S608


def find_undelivered_texts(
    engine: Engine, plan: Plan, warehouse: Warehouse, path: Path, sent_files: Sequence[Path]
) -> tuple[int, int, set[str]]:
    """Create the engine's table `undelivered_texts`: the texts that other runs had claimed and that have no result.
    Return how many texts these runs had claimed, how many have no result, and the runs that still claim some.

    :param path: file of the texts that others had claimed, in the form of an input file
    :param sent_files: input files of the texts among them that this run has sent since
    """
    lines = INPUT_LINES.replace("$input", "$path")
    engine.execute(f"CREATE OR REPLACE TABLE undelivered_texts AS FROM {lines}", {"path": escape_glob(path)})
    ((claimed,),) = engine.execute("SELECT count(*) FROM undelivered_texts").fetchall()
    for file in sent_files:
        engine.execute(
            f"DELETE FROM undelivered_texts WHERE recordId IN (SELECT recordId FROM {lines})",  # noqa: S608
            {"path": escape_glob(file)},
        )
    run_texts = "topic = ? AND model_id = ? AND text_key IN (SELECT text_key FROM run_texts)"
    model = [plan.topic, plan.model_id]
    with (
        warehouse.session(read_only=True) as session,
        session.staged("run_texts", Query(engine, "SELECT recordId AS text_key FROM undelivered_texts")),
    ):
        claims, coded_texts = table(plan.schema, "text_claims"), table(plan.schema, "coded_texts")
        claimants = session.execute(f"SELECT DISTINCT run_id FROM {claims} WHERE {run_texts}", model)  # noqa: S608
        results = session.read(f"SELECT text_key FROM {coded_texts} WHERE {run_texts}", model).read_all()  # noqa: S608
    engine.register("results_of_others", results)
    engine.execute("DELETE FROM undelivered_texts WHERE recordId IN (SELECT text_key FROM results_of_others)")
    engine.unregister("results_of_others")
    ((undelivered,),) = engine.execute("SELECT count(*) FROM undelivered_texts").fetchall()
    return claimed, undelivered, {run_id for (run_id,) in claimants} - {plan.run_id}
