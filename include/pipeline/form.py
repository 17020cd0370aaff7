"""The form of the DAGs that `recode_dag` makes: its params, and where their defaults come from.

The defaults of `recode_occupations` are settings of the deployment, environment variables that are read when Airflow
parses the DAG file (:func:`read_default_params`). They cannot be Airflow Variables, because parsing asks for nothing.
A value that cannot be used is an import error: Airflow shows it on its page of DAGs within a minute after the change,
and not only when the first nightly run fails.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from coding_service.errors import SettingsError
from include.coding.errors import PlanError
from include.coding.misspellings import suggest_names
from include.coding.plan import Plan
from include.pipeline.dag_arguments import MAX_RECORDS_PER_PART, READ_OPTION_NAMES, READ_OPTION_SCHEMA, SELECTIONS
from include.pipeline.names import MAX_LOOK_BACK_DAYS, MAX_TRIAL_RECORDS

_SCOPE, _SOURCE, _RESULT, _TRIAL, _LIMITS, _SENDING = (
    "What to code", "Source", "Result", "Try it first", "Limits for publishing", "Sending",
)  # fmt: skip
#: Params without a section are open when the form opens; a click opens a section. Airflow shows a `description` as it
#: is, and renders a `description_md`.
PARAMS = {
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From",
        description="First response date. If both dates are empty: the day before the run. Leave it empty in a"
        " backfill.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To",
        description_md="Last response date, inclusive. If only one of the dates is set, the run codes that day. Empty"
        " in a backfill: instead, set its own *To* to 23:59 of the last day.",
    ),
    "dry_run": Param(
        False, type="boolean", title="Dry run",
        description="Send nothing: the report counts the records and texts, and estimates calls and time.",
    ),
    "topic": Param(
        "osca", type="string", title="Topic", section=_SCOPE, minLength=1,
        description_md="`uriName` of the classification, such as `osca` or `anzsco`.",
    ),
    "model": Param(
        "latest", type="string", title="Model", section=_SCOPE, minLength=1,
        description_md="`latest`, or the GUID of a model. All runs of a backfill use the model of its first run.",
    ),
    "look_back_days": Param(
        7, type="integer", minimum=0, maximum=MAX_LOOK_BACK_DAYS, title="Look back", section=_SCOPE,
        description_md="Earlier days that a **scheduled** run checks for late answers; others code only their dates."
        " It looks back further to dates that are not published yet.",
    ),
    "selection": Param(
        "uncoded", type="string", enum=list(SELECTIONS), title="Texts", section=_SCOPE,
        values_display={"uncoded": "only texts that this model has not coded", "all": "code every text again"},
    ),
    "source": Param(
        "survey_responses", type="string", title="Source", section=_SOURCE, minLength=1,
        description_md="Table or view of the warehouse, or a file: `file:///path/answers.parquet` (.csv, .jsonl,"
        " .xlsx, others: docs/sources.md), a folder of Parquet files, or `s3://bucket/answers.csv`, if the settings"
        " of the deployment allow it. It must contain all records of the dates, because records from other sources"
        " are replaced.",
    ),
    "columns": Param(
        {}, type="object", title="Columns", section=_SOURCE,
        description_md='Columns that have other names in the source: `{"occp_text": "job_title"}`. The names to map'
        " are `record_id`, `response_date`, `occp_text`, `tasks_text`. `null` says that the source does not have one:"
        ' `{"tasks_text": null}`; without a record id, the rows of a file are numbered.',
        additionalProperties={"type": ["string", "null"], "minLength": 1},
    ),
    "read_options": Param(
        {}, type=["object", "null"], title="Read options", section=_SOURCE,
        description_md='How the source is read: `{"sheet": "Data", "header_row": 5, "date_format": "%d/%m/%Y"}`.'
        " `sheet`: name or number of a sheet of Excel; `header_row`: number of the row with the names of the columns;"
        " `delimiter` and `encoding` (`cp1252`, `latin-1`, `utf-16`) of a text file; `date_format`: form of dates"
        " that are texts; `timezone`: that in which the response date of a time with an offset or Z is determined;"
        " `connection`: Airflow connection of an `s3://` source.",
        propertyNames={"enum": list(READ_OPTION_NAMES)},
        properties=READ_OPTION_SCHEMA,
    ),
    "response_date": Param(
        None, type=["null", "string"], format="date", title="Single response date", section=_SOURCE,
        description_md="For a file or table **without dates**: the date of all its records. No other source can have"
        " this date. Leave From and To empty.",
    ),
    "clean": Param(
        True, type="boolean", title="Clean texts", section=_SOURCE,
        description="Convert accents, fractions, HTML entities etc. to plain ASCII. If off, texts are validated as"
        " they are.",
    ),
    "max_records": Param(
        None, type=["null", "integer"], minimum=1, maximum=MAX_TRIAL_RECORDS, title="Trial: maximum records",
        section=_TRIAL,
        description_md="Code only this many records, sampled from all. Their rows go to separate tables (schema"
        " `..._trial`); nothing is published.",
    ),
    "approve_above": Param(
        None, type=["null", "integer"], minimum=0, title="Require approval above", section=_TRIAL,
        description_md="Number of distinct texts above which a person must approve sending them (Required Actions)."
        " The setting `CODING_APPROVE_ABOVE` applies instead if it is lower.",
    ),
    "export": Param(
        None, type=["null", "string"], title="Export", section=_RESULT,
        description_md="File to write when the run has landed: its records with all columns of the source, and code,"
        " label, confidence, level, outcome, reason and model. `file:///path/coded.xlsx` or `s3://bucket/coded.csv`"
        " (.parquet, .csv, .xlsx), in a folder that the settings of the deployment allow. Leave it empty in a"
        " backfill.",
    ),
    "max_uncoded_share": Param(
        0.5, type="number", minimum=0, maximum=1, title="Maximum uncoded share", section=_LIMITS,
        description="Largest share of the records, not counting rejected ones, that may remain without a code. Above"
        " it, nothing is published.",
    ),
    "max_rejected_share": Param(
        0.2, type="number", minimum=0, maximum=1, title="Maximum rejected share", section=_LIMITS,
        description="Largest share of the records read that may be rejected. Above it, nothing is sent or published.",
    ),
    "min_records_for_limits": Param(
        50, type="integer", minimum=1, title="Minimum records for limits", section=_LIMITS,
        description="Smallest number of records for which the two limits are checked. With fewer, a share above its"
        " limit is only reported. Nightly runs count each date by itself.",
    ),
    "records_per_part": Param(
        500_000, type="integer", minimum=1, maximum=MAX_RECORDS_PER_PART, title="Records per part", section=_SENDING,
        description="Each part is one operation of the service.",
    ),
    "force_new": Param(
        False, type="boolean", title="New operations", section=_SENDING,
        description_md="Never resume the operation of an earlier attempt, and code dates even if another run in"
        " progress codes them. **Every retry sends its texts again.**",
    ),
}  # fmt: skip

#: Params that say what a single run is for, so they have no other defaults. A night with them would do nothing
#: useful, pay twice, or write over the file of the night before.
SINGLE_RUN_PARAMS = ("from_date", "to_date", "response_date", "dry_run", "max_records", "force_new", "export")
#: Environment variables that set the defaults of the other params of `recode_occupations` begin with this.
DEFAULT_PREFIX = "CODING_DEFAULT_"
#: A plan to check a default with, on its own.
EXAMPLE_PLAN = {
    "run_id": "example", "topic": "osca", "model_id": "00000000-0000-0000-0000-000000000000", "model_version": None,
    "from_date": "2026-10-05", "to_date": "2026-10-05", "source": "survey_responses",
}  # fmt: skip
#: Params that a DAG can have another default of.
DEFAULT_PARAMS = tuple(name for name in PARAMS if name not in SINGLE_RUN_PARAMS)
#: What a message calls the types of JSON Schema.
TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "object": "a JSON object", "array": "a JSON array", "null": "null",
}  # fmt: skip


def name_default(param: str) -> str:
    """Return the environment variable that sets the default of a param."""
    return DEFAULT_PREFIX + param.upper()


def read_default_params() -> dict[str, Any]:
    """Return the defaults that environment variables set, by the names of their params. An empty one is not set.

    :raises SettingsError: a variable has a value that its param cannot have, or names no param
    """
    texts = {name: text.strip() for name, text in os.environ.items() if name.startswith(DEFAULT_PREFIX)}
    variables = {name_default(param): param for param in DEFAULT_PARAMS}
    _check_names((name for name, text in texts.items() if text), variables, "the environment", "variables")
    return {variables[name]: _parse_default(variables[name], text) for name, text in texts.items() if text}


def make_params(defaults: Mapping[str, Any], place: str) -> dict[str, Param]:
    """Return the params of a form.

    :param defaults: those of its defaults that differ, by the names of their params
    :param place: what gave them, for a message
    :raises SettingsError: a value is impossible, or there is no such param
    """
    _check_names(defaults, DEFAULT_PARAMS, place, "arguments")
    for name, value in defaults.items():
        _check_default(name, value, f"{place}: `{name}`")
    return {
        name: Param(copy.deepcopy(defaults.get(name, param.value)), param.description, **param.schema)
        for name, param in PARAMS.items()
    }


def _check_names(unknown: Iterable[str], choices: Iterable[str], place: str, kind: str) -> None:
    choices = list(choices)
    unknown = set(unknown).difference(choices)
    if single_run := sorted(
        name for name in unknown if name.removeprefix(DEFAULT_PREFIX).lower() in SINGLE_RUN_PARAMS
    ):
        raise SettingsError(
            f"{place} sets {single_run}, but these say what a single run is for: set them in the form of a run"
        )
    if unknown:
        names = suggest_names(unknown, choices)
        raise SettingsError(f"{place} has unknown {kind}: {names}. There are {sorted(choices)}")


def _parse_default(name: str, text: str) -> Any:
    """Return the value of an environment variable: a text as it is, everything else as JSON."""
    place = f"the environment variable {name_default(name)}"
    value: Any = text
    if "string" not in _list_types(name):
        try:
            value = json.loads(text)
        except ValueError:
            raise _refuse_default(name, text, place) from None
    _check_default(name, value, place)
    return value


def _check_default(name: str, value: Any, place: str) -> None:
    """Raise :class:`SettingsError` if a run with this default could not even be planned."""
    try:
        Param(**PARAMS[name].schema).resolve(value)
    except ParamValidationError:
        raise _refuse_default(name, value, place) from None
    if name in {field.name for field in dataclasses.fields(Plan)}:
        try:
            Plan.from_dict({**EXAMPLE_PLAN, name: value})
        except PlanError as error:
            raise SettingsError(f"{place} is {value!r}. {error}") from None


def _refuse_default(name: str, value: Any, place: str) -> SettingsError:
    schema = PARAMS[name].schema
    expected = " or ".join(TYPES[kind] for kind in _list_types(name))
    if "enum" in schema:
        expected = f"one of {schema['enum']}"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return SettingsError(f"{place} is {value!r}; expected {' '.join([expected, *bounds])}")


def _list_types(name: str) -> list[str]:
    types = PARAMS[name].schema["type"]
    return [types] if isinstance(types, str) else list(types)
