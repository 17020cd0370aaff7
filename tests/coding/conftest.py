"""A source in a real warehouse, and a substitute for the service between `prepare` and `land`."""

import hashlib
import json
import multiprocessing
import os
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from include.coding.engine import open_engine
from include.coding.files import path_from_uri
from include.coding.isolation import Kind
from include.coding.landing import land
from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.prepare import Prepared, prepare
from include.coding.recoding import Recoding
from include.coding.results import PartResult
from include.coding.source import open_source
from include.coding.source_access import SourceAccess
from include.coding.source_files import find_file
from include.coding.staging import Staging
from tests.support.warehouses import open_warehouse

ROOT = Path(__file__).parents[2]
MODEL = "11111111-1111-4111-8111-111111111111"
OTHER_MODEL = "22222222-2222-4222-8222-222222222222"
OLDEST_MODEL = "33333333-3333-4333-8333-333333333333"
DAY, NEXT_DAY, LATER_DAY = "2026-10-05", "2026-10-06", "2026-10-09"
CHEF = {"codeCategory": "351311", "codeLabel": "Chef", "codeConfidence": 0.92}

#: A data test runs on DuckDB alone, unless one of these says that its claim depends on the SQL or the transactions of a
#: warehouse. tests/warehouse proves that sessions of all kinds behave alike.
on_all_warehouses = pytest.mark.parametrize("place", ["duckdb", "postgres", "redshift"], indirect=True)
on_duckdb_and_postgres = pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)
on_postgres = pytest.mark.parametrize("place", ["postgres"], indirect=True)
on_redshift = pytest.mark.parametrize("place", ["redshift"], indirect=True)

#: Starts processes by a fork of one that has imported this module, since the imports take seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def make_plan(**changes):
    fields = {
        "run_id": "run-1",
        "topic": "osca",
        "model_id": MODEL,
        "model_version": 1.0,
        "from_date": DAY,
        "to_date": NEXT_DAY,
        "source": "survey_responses",
        "max_rejected_share": 0.5,
        "min_records_for_limits": 1,
    }
    return Plan.from_dict({**fields, **changes})


@contextmanager
def open_test_source(folder, plan, warehouse, memory_mb=256, access=None):
    """Open the source of a plan in an engine that works in `folder`; yield the engine and the snapshot. Files can be
    read beside that folder, unless `access` says something else."""
    access = access or SourceAccess(folders=(folder.parent,))
    file = find_file(plan.source, access)
    with (
        open_engine(folder, "test", memory_mb, file.paths if file else ()) as engine,
        open_source(plan, engine, warehouse, access, file) as snapshot,
    ):
        yield engine, snapshot


def make_key(occp_text, tasks_text):
    return hashlib.sha256(f"{occp_text}\x1f{tasks_text}".encode()).hexdigest()[:32]


def read_part(part):
    text = path_from_uri(part.input_uri).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def code_line(line, result=CHEF, **changes):
    """Return the output line of an input line; it is coded as a chef by default."""
    status = "successful" if result else "unsuccessful"
    members = {"recordId": line["recordId"], "codeStatus": status, "input": line, "result": result, **changes}
    return json.dumps(members) + "\n"


class MemoryStore:
    """A store of JSON values that lasts as long as the test."""

    def __init__(self):
        self.values = {}

    def get(self, key):
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key, value):
        self.values[key] = json.dumps(value)


def collect_and_land(plan, prepared, part_results, warehouse, staging, code_piece=None, store=None):
    """Do what `collect` and `land` do.

    :param code_piece: codes what `collect` sends again: takes a part, returns its result. None: nothing may be sent
    """
    errors = {result.operation_id: result.message for result in part_results}
    store = store or MemoryStore()
    recoding = Recoding(plan, prepared, part_results, warehouse, staging, store, errors.get, lambda run_id: False)
    while (pieces := recoding.next_pieces()) or recoding.settle_claims(0.0) or recoding.running_pieces:
        for piece in pieces:
            part = Part(
                piece.part,
                plan.topic,
                plan.model_id,
                False,
                piece.input_uri,
                piece.records,
                piece.bytes,
                piece.sha256,
            )
            result = code_piece(part)
            ended = recoding.update(
                piece, operation_id=result.operation_id, state=result.state, output_uri=result.output_uri,
                metadata_uri=result.metadata_uri,
            )  # fmt: skip
            if result.state not in ("complete", "failed", "timed_out"):
                recoding.update(ended, problem=result.message)
            if piece.kind is not Kind.CONTROL:
                errors[result.operation_id] = result.message
    return land(plan, prepared, recoding.finish(), warehouse, staging)


def land_when_ready(ready, error_file, place, plan, prepared, part_results, staging):
    """Land a run in the process of :meth:`Pipeline.start_landing`, whose standard error goes to a file."""
    os.dup2(os.open(error_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    warehouse = open_warehouse(place, lock_timeout_s=60)
    ready.set()
    collect_and_land(plan, prepared, part_results, warehouse, staging)


class Pipeline:
    """Runs `prepare`, `collect` and `land`, with a function in place of the service. Files can be read from the folders
    of all tests."""

    def __init__(self, folder, place, objects=None):
        self.folder, self.place, self.objects = folder, place, objects
        self.runs_in_progress = set()  # only while others prepare
        self.access = SourceAccess(folders=(folder.parent,))
        self.warehouse = open_warehouse(place)

    def query(self, sql, *values):
        with self.warehouse.session() as session:
            return session.execute(sql, values)

    def fill(self, *rows, table="survey_responses"):
        """Append records: record id, date, job title, tasks."""
        columns = "record_id VARCHAR, response_date DATE, occp_text VARCHAR, tasks_text VARCHAR"
        with self.warehouse.session() as session, session.transaction():
            session.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            for row in rows:
                record_id, day, *texts = row
                values = [record_id, day and date.fromisoformat(day), *texts]
                session.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", values)

    def prepare(self, **changes):
        self.plan = make_plan(**changes)
        is_in_progress = self.runs_in_progress.__contains__
        self.prepared = prepare(self.plan, self.warehouse, self.staging, self.access, is_in_progress)
        return self.prepared

    @property
    def staging(self):
        """The files of the run that was prepared last: local ones, or in `objects` (URI, file system)."""
        scratch = self.folder / self.plan.run_id
        if self.objects is None:
            return Staging.in_folder(scratch)
        base, fs = self.objects
        return Staging(f"{base}/{self.plan.run_id}", scratch, fs)

    def code_part(self, part, code=code_line, metadata=None, lines=None):
        """Write the output of a part and return its result."""
        output = path_from_uri(part.input_uri).with_suffix(".output")
        text = "".join(code(line) for line in read_part(part)) if lines is None else lines
        output.write_text(text, encoding="utf-8")
        metadata_uri = None
        if metadata is not None:
            metadata_file = output.with_suffix(".metadata")
            metadata_file.write_bytes(metadata)
            metadata_uri = metadata_file.as_uri()
        return PartResult(
            part.part,
            f"{self.plan.run_id}-operation-{part.part}",
            "complete",
            output_uri=output.as_uri(),
            metadata_uri=metadata_uri,
            input_uri=part.input_uri,
            fingerprint=part.fingerprint,
        )

    def land(self, part_results=None, prepared=None, code_piece=None, **options):
        """Collect and land the run that was prepared last.

        :param prepared: fields of it to change
        :param code_piece: codes what is sent again: takes a part, returns its result. None: as the parts were coded
        :param options: of :meth:`code_part`
        """
        self.sent_again = []

        def code(part):
            with self.staging.open_local(part.input_uri) as path:
                lines = path.read_text(encoding="utf-8").splitlines()
            self.sent_again.append([json.loads(line)["occp_text"] for line in lines])
            return (code_piece or (lambda part: self.code_part(part, **options)))(part)

        if part_results is None:
            part_results = [self.code_part(part, **options) for part in self.prepared.parts]
        prepared = Prepared.from_dict({**self.prepared.to_dict(), **(prepared or {})})
        return collect_and_land(self.plan, prepared, part_results, self.warehouse, self.staging, code)

    def run(self, code=code_line, **changes):
        self.prepare(**changes)
        return self.land(code=code)

    def start_landing(self):
        """Land what was prepared last in another process, and return the process as soon as it is ready to land."""
        part_results = [self.code_part(part) for part in self.prepared.parts]
        ready = PROCESSES.Event()
        error_file = self.folder / f"{self.plan.run_id}.stderr"
        arguments = (ready, error_file, self.place, self.plan, self.prepared, part_results, self.staging)
        process = PROCESSES.Process(target=land_when_ready, args=arguments, daemon=True)
        process.error_file = error_file
        process.start()
        assert ready.wait(60), "the process does not start"
        return process

    def read_outcomes(self):
        """Return the record ids and outcomes of what is published, in order."""
        return self.query("SELECT record_id, outcome FROM coding.coded_records ORDER BY 1, 2")


@pytest.fixture
def place(request, lend_place):
    """Where an empty warehouse is: a DuckDB file, unless the test asks for another kind."""
    return lend_place(getattr(request, "param", "duckdb"))


@pytest.fixture
def pipeline(tmp_path, place):
    return Pipeline(tmp_path, place)
