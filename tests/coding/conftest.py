"""A source in a real warehouse, and stand-ins for what the service does between `prepare` and `land`."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from include.coding.landing import land
from include.coding.plan import Plan
from include.coding.prepare import prepare
from include.coding.results import Returned
from include.coding.staging import Staging
from tests.support.warehouses import open_warehouse

ROOT = Path(__file__).parents[2]
MODEL = "11111111-1111-4111-8111-111111111111"
OTHER_MODEL = "22222222-2222-4222-8222-222222222222"
DAY, NEXT_DAY, LATER = "2026-10-05", "2026-10-06", "2026-10-09"
CHEF = {"codeCategory": "351311", "codeLabel": "Chef", "codeConfidence": 0.92}

#: Lands what a JSON file describes, in a process of its own.
LAND = """
import json, sys
from pathlib import Path
from include.coding.landing import land
from include.coding.plan import Plan
from include.coding.results import Returned
from include.coding.staging import Staging
from tests.support.warehouses import open_warehouse
job = json.loads(Path(sys.argv[1]).read_text())
warehouse = open_warehouse(job["place"], lock_timeout_s=60)
returned = [Returned(**back) for back in job["returned"]]
print("ready", flush=True)
land(Plan.from_dict(job["plan"]), job["prepared"], job["parts"], returned, warehouse, Staging.here(Path(job["folder"])))
"""


def make_plan(**changes):
    settled = {
        "run_id": "run-1",
        "topic": "osca",
        "model_id": MODEL,
        "model_version": 1.0,
        "from_date": DAY,
        "to_date": NEXT_DAY,
        "source": "survey_responses",
        "staging": "file:///nowhere",
        "max_rejected_share": 0.5,
    }
    return Plan.from_dict({**settled, **changes})


def make_key(occp_text, tasks_text):
    return hashlib.sha256(f"{occp_text}\x1f{tasks_text}".encode()).hexdigest()[:32]


def path_of(uri):
    return Path(unquote(urlsplit(uri).path))


def read_part(part):
    return [json.loads(line) for line in path_of(part.uri).read_text(encoding="utf-8").splitlines()]


def code_line(line, result=CHEF, **changes):
    """The output line of an input line: coded, as long as nothing else is said."""
    status = "successful" if result else "unsuccessful"
    told = {"recordId": line["recordId"], "codeStatus": status, "input": line, "result": result, **changes}
    return json.dumps(told) + "\n"


class Pipeline:
    """Runs `prepare` and `land` with a coder that is told what to answer."""

    def __init__(self, folder, place, objects=None):
        self.folder, self.place, self.objects = folder, place, objects
        self.warehouse = open_warehouse(place)

    def ask(self, sql, *values):
        with self.warehouse.session() as session:
            return session.execute(sql, values)

    def fill(self, *rows, table="survey_responses"):
        """Append records: record id, date, job title, tasks."""
        columns = "record_id VARCHAR, response_date DATE, occp_text VARCHAR, tasks_text VARCHAR"
        with self.warehouse.session() as session, session.transaction():
            session.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            for row in rows:
                record_id, day, *texts = row
                session.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", [record_id, day and as_date(day), *texts])

    def prepare(self, **changes):
        self.plan = make_plan(**changes)
        self.prepared = prepare(self.plan, self.warehouse, self.staging)
        return self.prepared

    @property
    def staging(self):
        """The files of the run that was prepared last: here, or in `objects` (URI, file system)."""
        scratch = self.folder / self.plan.run_id
        if self.objects is None:
            return Staging.here(scratch)
        base, fs = self.objects
        return Staging(f"{base}/{self.plan.run_id}", scratch, fs)

    def come_back(self, part, code=code_line, metadata=None, lines=None):
        """Write the output of a part and return what came back of it."""
        output = path_of(part.uri).with_suffix(".output")
        sent = read_part(part)
        output.write_text("".join(code(line) for line in sent) if lines is None else lines, encoding="utf-8")
        told = None
        if metadata is not None:
            told = output.with_suffix(".metadata")
            told.write_bytes(metadata)
        operation_id = f"{self.plan.run_id}-operation-{part.part}"
        fingerprint = f"{part.topic}/{part.model_id}/{part.sha256}"
        told = told and told.as_uri()
        return Returned(part.part, operation_id, "complete", None, output.as_uri(), told, part.uri, fingerprint)

    def land(self, returned=None, prepared=None, **options):
        if returned is None:
            returned = [self.come_back(part, **options) for part in self.prepared.parts]
        parts = [asdict(part) for part in self.prepared.parts]
        told = {**self.prepared.as_dict(), **(prepared or {})}
        return land(self.plan, told, parts, returned, self.warehouse, self.staging)

    def run(self, code=code_line, **changes):
        self.prepare(**changes)
        return self.land(code=code)

    def start_landing(self):
        """Land what was prepared last in another process; it prints `ready` before it begins."""
        returned = [self.come_back(part) for part in self.prepared.parts]
        folder = self.folder / self.plan.run_id
        job = folder / "job.json"
        told = {
            "place": str(self.place),
            "folder": str(folder),
            "plan": self.plan.as_dict(),
            "prepared": self.prepared.as_dict(),
            "parts": [asdict(part) for part in self.prepared.parts],
            "returned": [asdict(back) for back in returned],
        }
        job.write_text(json.dumps(told), encoding="utf-8")
        command = [sys.executable, "-c", LAND, str(job)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def outcomes(self):
        """Record ids and outcomes of what is published, in order."""
        return self.ask("SELECT record_id, outcome FROM coding.coded_records ORDER BY 1, 2")


@pytest.fixture
def pipeline(tmp_path, place):
    return Pipeline(tmp_path, place)


def as_date(text):
    return date.fromisoformat(text)
