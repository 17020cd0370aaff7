"""The web application that the plugin mounts into Airflow's API server: plain HTML from templates, no JavaScript."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import AfterValidator

from include.page import dates, models, today
from include.page.access import ComparisonRightDep, OtherDagError, ReportDagDep, View, ViewDep
from include.page.run import read_details
from include.page.runbook import read_errors, render_runbook
from include.page.runs import PAGE_RUNS, CodingRun, Filters, RunQuery, count_tasks
from include.pipeline.names import COMPARE_DAG_ID, PAGE_PATH, TIMEZONE
from include.pipeline.reports import quotes_people, read_comparison_picture, read_report
from include.pipeline.settings import read_flag

#: Path of the page below the root of Airflow.
PREFIX = PAGE_PATH
#: How many days *Today* looks back, and how many runs of each kind it lists.
RECENT_DAYS, LISTED_RUNS = 31, 20
#: Highest page of the list of runs.
MAX_PAGE = 10_000
STATES = ("queued", "running", "success", "failed")
KINDS = ("scheduled", "manual", "backfill", "asset_triggered")
MODES = ("publish", "dry run", "trial")

#: Setting that allows reports to quote people.
REPORT_TEXTS = "CODING_REPORT_TEXTS"
#: Sentences of pages that cannot be shown.
NO_RUN = "This DAG has no such run."
NO_PICTURE = "There is no picture of this comparison."
NO_REPORT = (
    "There is no report to show: the run has not written it yet, somebody has removed it, or the API server cannot"
    " read the staging area (CODING_STAGING)."
)
TEXTS_HIDDEN = (
    "This report quotes what people wrote, so it is shown here only if CODING_REPORT_TEXTS is set. It is in the"
    " staging area, at the place that the task returned."
)
OTHER_DAG = "This run is of another DAG. This tab shows the runs that code occupations."
COMPARISON = "This run compares models."
#: Headers of files of the staging area, which run no script and load nothing whatever is in them.
FILE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

#: A value of the URL, without the character that PostgreSQL refuses in any text.
ShortText = Annotated[str, Query(max_length=250), AfterValidator(lambda text: text.replace("\0", ""))]

app = FastAPI(
    title="Occupation coding",
    dependencies=[Depends(get_user)],  # whoever asks is logged in; what they may see, each page asks
    docs_url=None,
    redoc_url=None,
    openapi_url=None,  # FastAPI serves these without the dependencies
)


@app.exception_handler(HTTPException)
def show_problem(request: Request, error: HTTPException) -> HTMLResponse:
    """Answer with the sentence of an error as a page."""
    return render_problem(str(error.detail), error.status_code, headers=error.headers)


@app.exception_handler(OtherDagError)
def show_other_dag(request: Request, error: OtherDagError) -> HTMLResponse:
    """Answer to the tab of a run that the page does not show, without saying whether the DAG exists."""
    if not error.is_comparison:
        return render_problem(OTHER_DAG, status.HTTP_200_OK)
    query = {"dag": COMPARE_DAG_ID, "run": request.query_params.get("run", "")}
    return render_problem(COMPARISON, status.HTTP_200_OK, report_url=f"report?{urlencode(query)}")


# ---- pages -------------------------------------------------------------------------------------------------------


@app.get("/")
def show_today(request: Request, view: ViewDep, session: SessionDep) -> HTMLResponse:
    """Answer with the last night, what needs a person, runs under way, calls, model and set-up."""
    now = datetime.now(UTC)
    last = read_today(now)
    first = last - timedelta(days=RECENT_DAYS)
    query = RunQuery(view.dag_id)
    runs = query.read_recent(session, first)
    night = next(iter(query.read(session, Filters(kind="scheduled"), limit=1)), None)
    unfinished = [run for run in runs if run.is_unfinished]
    tasks = count_tasks(session, view.dag_id, [*unfinished[:LISTED_RUNS], *([night] if night else [])])
    waiting = {task.run_id for task in tasks if task.state == today.WAITING_FOR_PERSON}
    topic = next(iter(dates.list_topics(runs)), None)
    days = dates.read_days(runs, topic, first, last, waiting)
    due = today.read_due(session, view.dag_id, night.run_id) if night and night.is_unfinished else None
    dag = session.get(DagModel, view.dag_id)
    is_paused = dag is None or bool(dag.is_paused)
    published = next((run for run in runs if run.landing and run.plan and not run.mode), None)
    model = published.plan if published else None
    return render(
        request, view, "today.html",
        headline=today.describe_night(night, tasks, now, is_paused, format_time, due),
        waiting=[run for run in unfinished if run.run_id in waiting],
        problems=[day for day in reversed(days) if day.state in ("failed", "over_limit")],
        unfinished=unfinished[:LISTED_RUNS], unfinished_count=len(unfinished), tasks=tasks, calls=today.read_calls(),
        model=model, model_since=query.find_first_use(session, model.model_id) if model else None,
        checks=today.check_setup(session, is_paused) if view.can_read_setup else None,
    )  # fmt: skip


@app.get("/dates")
def show_dates(
    request: Request,
    view: ViewDep,
    session: SessionDep,
    topic: ShortText = "",
    until: ShortText = "",
    first: Annotated[str, Query(alias="from", max_length=250)] = "",
    last: Annotated[str, Query(alias="to", max_length=250)] = "",
) -> HTMLResponse:
    """Answer with the calendar of a year, the command for a marked range, and the shares over time."""
    newest = read_today(datetime.now(UTC))
    end = parse_day(until) or newest
    start = max(date.min, end - timedelta(days=min(dates.MAX_DAYS - 1, (end - date.min).days)))
    query = RunQuery(view.dag_id)
    runs = query.read_recent(session, start, is_brief=True)
    topics = dates.list_topics(runs)
    shown_topic = topic or next(iter(topics), None)
    tasks = count_tasks(session, view.dag_id, [run for run in runs if run.is_unfinished][: dates.MAX_DAYS])
    waiting = {task.run_id for task in tasks if task.state == today.WAITING_FOR_PERSON}
    days = dates.read_days(runs, shown_topic, start, end, waiting)
    mark = parse_range(first, last)
    problem = (
        "" if mark or not (first or last) else "Give two dates such as 2026-10-31, the first one not after the last."
    )
    return render(
        request, view, "dates.html", states=dates.STATES,
        calendar=render_calendar(tuple(days), mark, f"runs?{urlencode({'dag': view.dag_id})}"),
        counts={state: sum(day.state == state for day in days) for state in dates.STATES},
        topics=topics, topic=shown_topic, start=start, end=end, first=first, last=last, mark=mark, problem=problem,
        command=dates.make_backfill_command(view.dag_id, *mark, days) if mark else "",
        line=dates.draw_shares(days), earlier=start - timedelta(days=1) if start > date.min else None,
        later=min(newest, end + timedelta(days=dates.MAX_DAYS)) if end < newest else None,
    )  # fmt: skip


@app.get("/runs")
def show_runs(
    request: Request,
    view: ViewDep,
    session: SessionDep,
    state: ShortText = "",
    kind: ShortText = "",
    topic: ShortText = "",
    model: ShortText = "",
    user: ShortText = "",
    mode: ShortText = "",
    first: Annotated[str, Query(alias="from", max_length=250)] = "",
    last: Annotated[str, Query(alias="to", max_length=250)] = "",
    page: Annotated[str, Query(max_length=20)] = "1",
) -> HTMLResponse:
    """Answer with the runs that the filters in the URL select, newest first."""
    filters = Filters(state, kind, topic, model, user, mode, first, last)
    problem = ""
    if any(text and parse_day(text) is None for text in (first, last)):
        problem = "Dates are written like 2026-10-31; the filter of the dates is not used."
    if mode and mode not in MODES:
        problem = "This list knows no such mode; the filter is not used."
    number = min(MAX_PAGE, int(page)) if page.isascii() and page.isdecimal() and int(page) else 1
    valid = {name: text if parse_day(text) else "" for name, text in (("first", first), ("last", last))}
    query = RunQuery(view.dag_id)
    rows = query.read(session, replace(filters, **valid), PAGE_RUNS + 1, (number - 1) * PAGE_RUNS)
    runs, has_more = rows[:PAGE_RUNS], len(rows) > PAGE_RUNS
    failed = count_tasks(session, view.dag_id, [run for run in runs if run.state == "failed"])
    names: dict[str, list[str]] = {}
    for task in failed:
        if task.state == today.FAILED:
            names.setdefault(task.run_id, []).append(task.task_id)
    return render(
        request, view, "runs.html", runs=runs, failed_tasks=names, filters=filters, problem=problem, page=number,
        has_more=has_more, states=("", *STATES), kinds=("", *KINDS),
        modes=("", *MODES),
    )  # fmt: skip


@app.get("/run")
def show_run(request: Request, view: ViewDep, session: SessionDep, run: ShortText = "") -> HTMLResponse:
    """Answer with what a run did: the page, and the tab of the run in Airflow."""
    details = read_details(session, view.dag_id, run, datetime.now(UTC))
    if details is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, NO_RUN)
    return render(request, view, "run.html", details=details, run=details.run, errors=read_errors())


@app.get("/report")
def show_report(dag_id: ReportDagDep, session: SessionDep, run: ShortText = "") -> Response:
    """Answer with the report of a run or of a comparison. Whatever is in the file, it runs no script and loads
    nothing."""
    if RunQuery(dag_id).find(session, run) is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, NO_RUN)
    report = read_report(dag_id, run)
    if report is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, NO_REPORT)
    if quotes_people(report) and not read_flag(REPORT_TEXTS):
        raise HTTPException(status.HTTP_403_FORBIDDEN, TEXTS_HIDDEN)
    return Response(report, media_type="text/html", headers={**FILE_HEADERS, "Cache-Control": "no-store"})


@app.get("/models")
def show_models(
    request: Request, view: ViewDep, session: SessionDep, has_comparison_right: ComparisonRightDep
) -> HTMLResponse:
    """Answer with the models that have records, how to compare two of them, and the comparisons that were made."""
    model_list = models.list_models(RunQuery(view.dag_id).read_recent(session, date.min, is_brief=True))
    suggestion = models.suggest_comparison(model_list)
    return render(
        request, view, "models.html", models=model_list, suggestion=suggestion,
        command=models.make_trigger_command(suggestion) if suggestion else "", shown_params=models.SHOWN_PARAMS,
        comparisons=models.read_comparisons(session) if has_comparison_right else None, compare_dag_id=COMPARE_DAG_ID,
    )  # fmt: skip


@app.get("/models/picture")
def show_picture(session: SessionDep, has_comparison_right: ComparisonRightDep, run: ShortText = "") -> Response:
    """Answer with the picture of a comparison. Whatever is in the file, it runs no script and loads nothing."""
    if not has_comparison_right:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "you may not read the comparisons of models")
    picture = read_comparison_picture(run) if models.read_comparisons(session, run) else None
    if picture is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, NO_PICTURE)
    headers = {**FILE_HEADERS, "Cache-Control": "private, max-age=3600"}
    return Response(picture, media_type="image/svg+xml", headers=headers)


@app.get("/help")
def show_help(request: Request, view: ViewDep) -> HTMLResponse:
    """Answer with the runbook, with an anchor for each class of error."""
    return render(request, view, "help.html", errors=read_errors(), runbook=render_runbook())


# ---- what the URL says -------------------------------------------------------------------------------------------


def parse_day(text: str) -> date | None:
    """Return the date that a field of the URL names; None if it names none."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.isoformat() == text else None


def parse_range(first: str, last: str) -> tuple[date, date] | None:
    """Return the marked range of dates; None if there is none, or if it is not one."""
    start, end = parse_day(first or last), parse_day(last or first)
    return (start, end) if start and end and start <= end else None


def read_today(now: datetime) -> date:
    """Return the day in the timezone of the response dates."""
    return now.astimezone(ZoneInfo(TIMEZONE)).date()


# ---- HTML --------------------------------------------------------------------------------------------------------


def format_time(moment: datetime | None) -> str:
    """Return a point in time, as clocks in the timezone of the response dates show it; empty if there is none."""
    return f"{moment.astimezone(ZoneInfo(TIMEZONE)):%d %b %Y %H:%M}" if moment else ""


def format_duration(duration: timedelta | None) -> str:
    """Return a duration in hours, minutes and seconds; empty if there is none."""
    if duration is None:
        return ""
    minutes, seconds = divmod(max(0, round(duration.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def format_seconds(seconds: float | None) -> str:
    """Return a number of seconds as a duration; empty if there is none."""
    return "" if seconds is None else format_duration(timedelta(seconds=seconds))


def format_share(share: float | None) -> str:
    """Return a share in percent; empty if there is none."""
    return "" if share is None else f"{share:.1%}"


def describe_tasks(tasks: list[Any], run: CodingRun) -> str:
    """Return where a run is: its tasks that are at work or wait, with the number of their parts."""
    places = [
        f"{task.task_id}: {task.count} {task.state.replace('_', ' ')}"
        for task in tasks
        if task.run_id == run.run_id and task.state in today.ACTIVE
    ]
    return ", ".join(places) or run.state


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,  # names, notes and ids come from people and from the service
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "time": format_time,
    "duration": format_duration,
    "share": format_share,
    "segment": lambda text: quote(str(text), safe=""),
    "seconds": format_seconds,
    "number": lambda number: "" if number is None else f"{number:,}",
    "version": lambda number: f"{number:g}",
}
TEMPLATES.globals["describe_tasks"] = describe_tasks


def render(request: Request, view: View, template: str, **values: Any) -> HTMLResponse:
    """Return a page."""
    nonce = secrets.token_urlsafe(16)
    filters = (
        {name: value for name, value in asdict(values["filters"]).items() if value} if "filters" in values else {}
    )
    filters = {{"first": "from", "last": "to"}.get(name, name): value for name, value in filters.items()}

    def link(page: str, /, **query: Any) -> str:
        return f"{page}?{urlencode({'dag': view.dag_id, **query})}"

    root = str(request.scope.get("root_path", ""))
    html = TEMPLATES.get_template(template).render(
        view=view, nonce=nonce, link=link, filter_query=filters, airflow=root.removesuffix(PREFIX),
        made_at=format_time(datetime.now(UTC)), timezone=TIMEZONE, **values,
    )  # fmt: skip
    return HTMLResponse(html, headers=make_headers(nonce))


@lru_cache(8)
def render_calendar(days: tuple[dates.DayState, ...], mark: tuple[date, date] | None, runs_link: str) -> Markup:
    """Return the calendar and the list of dates. It remembers them, because most dates stay as they are.

    :param mark: the marked range of dates
    :param runs_link: link to the list of runs
    """
    html = TEMPLATES.get_template("calendar.html").render(
        months=dates.group_by_month(days), days=days, states=dates.STATES, mark=mark, runs_link=runs_link
    )
    return Markup(html)  # the template escapes every value


def render_problem(
    sentence: str, status_code: int, report_url: str = "", headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Return a page with nothing but a sentence, perhaps with a link to a report."""
    nonce = secrets.token_urlsafe(16)
    html = TEMPLATES.get_template("problem.html").render(nonce=nonce, sentence=sentence, report_url=report_url)
    return HTMLResponse(html, status_code, headers={**(headers or {}), **make_headers(nonce)})


def make_headers(nonce: str) -> dict[str, str]:
    """Return headers that let a page run no script, load nothing but its own pictures, and stand in no page but
    Airflow's."""
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; img-src 'self'; form-action 'self'; frame-ancestors 'self';"
        " base-uri 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
