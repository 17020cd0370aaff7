"""The report of a comparison, for people: Markdown to read, and a picture to look at."""

from __future__ import annotations

import logging
from html import escape
from textwrap import shorten

import pandas as pd

from include.coding.changes import MOST, Changes, find_changes
from include.coding.comparison import Comparison, Model
from include.coding.picture import Panel, draw
from include.coding.staging import REPORT, Staging
from include.warehouse.warehouse import Warehouse

PICTURE = "picture.svg"
#: Moves in the picture.
DRAWN = 12

log = logging.getLogger(__name__)


def write_comparison(comparison: Comparison, warehouse: Warehouse, staging: Staging) -> str:
    """Write the report and its picture, log the report without people's texts, and return its URI."""
    with warehouse.session(read_only=True) as session:
        changes = find_changes(comparison, session)
    log.info("%s", _report(changes, changes.samples))
    samples = changes.samples
    if comparison.with_texts:
        samples = samples.merge(changes.texts, on="text_key", how="left")
    staging.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in ((PICTURE, _picture(changes)), (REPORT, _report(changes, samples))):
        path = staging.scratch / name
        path.write_text(text, encoding="utf-8")
        uri = staging.keep(path)
    return uri


def _report(changes: Changes, samples: pd.DataFrame) -> str:
    coded = sum(changes.verdicts.values())
    outcomes = changes.outcomes.assign(all=changes.outcomes.sum(axis=1))
    outcomes.loc["all"] = outcomes.sum()
    shares = changes.levels.assign(share=changes.levels["share"].map(_percent))
    moves = changes.moves.assign(share=changes.moves["share"].map(_percent))
    sections = [
        _head(changes, coded),
        f"![The same as a picture]({PICTURE})",
        "## Outcomes\n\nOf the records that both have: before in the rows, after in the columns.\n\n"
        + _markdown(outcomes.rename_axis("before").reset_index()),
        "## Agreement by level\n\nThe share of records whose codes agree in the first digits, of those with a code of"
        f" so many digits before and after.\n\n{_markdown(shares)}",
        "## Codes that moved most\n\nThe share is that of all moved records.\n\n" + _markdown(moves),
        "## Labels that changed while the code stayed\n\n" + _markdown(changes.relabelled.head(MOST)),
        "## Confidence\n\nOf the records that both coded.\n\n" + _markdown(changes.confidence),
    ]
    if changes.comparison.crosswalk:
        sides = changes.missing["missing_as"].value_counts()
        sections.append(
            f"## Codes that the crosswalk does not have\n\n{sides.get('from_code', 0)} codes before, as `from_code`;"
            f" {sides.get('to_code', 0)} codes after, as `to_code`. Those with the most records:\n\n"
            + _markdown(changes.missing.groupby("missing_as").head(MOST))
        )
    sections.append(
        "## Samples of moved records\n\nOne record of each text, drawn by the hash of the text; `alike` counts the"
        f" moved records with that text.\n\n{_markdown(samples)}"
    )
    return "\n\n".join(sections) + "\n"


def _head(changes: Changes, coded: int) -> str:
    comparison, verdicts = changes.comparison, changes.verdicts
    crosswalk = f" Crosswalk: `{comparison.crosswalk}`." if comparison.crosswalk else ""
    lines = [
        "# What changed between two models",
        "",
        f"Before: {_name(changes.before)}. After: {_name(changes.after)}.",
        f"Response dates: {comparison.from_date or 'the first'} to {comparison.to_date or 'the last'}.{crosswalk}",
        "",
        f"- Records that both have: {changes.both:,}; only before: {changes.only_before:,}; only after:"
        f" {changes.only_after:,}.",
        f"- Coded by both: {coded:,}. Kept their code: {_part(verdicts['kept'], coded)}; moved to another one:"
        f" {_part(verdicts['moved'], coded)}.",
        f"- Gained a code: {changes.gained:,}; lost their code: {changes.lost:,}.",
    ]
    if verdicts["unmapped"]:
        lines.append(
            f"- Neither kept nor moved, since the crosswalk does not have their old code:"
            f" {_part(verdicts['unmapped'], coded)}."
        )
    if changes.reworded:
        lines.append(
            f"- Coded by both, but from another text than before, since the source changed: {changes.reworded:,}."
        )
    return "\n".join(lines)


def _picture(changes: Changes) -> str:
    title = f"{_version(changes.before)} to {_version(changes.after)}: {changes.both:,} records that both have"
    return draw(title, [_fates(changes), _agreement(changes), _moves(changes)])


def _fates(changes: Changes) -> Panel:
    counts = {
        "kept their code": changes.verdicts["kept"],
        "moved to another code": changes.verdicts["moved"],
        "old code not in the crosswalk": changes.verdicts["unmapped"],
        "gained a code": changes.gained,
        "lost their code": changes.lost,
        "no code before or after": changes.never,
    }
    rows = [(name, count / changes.both, _part(count, changes.both)) for name, count in counts.items() if count]
    return Panel("What became of them", rows, "#d1a95c")


def _agreement(changes: Changes) -> Panel:
    levels = changes.levels[changes.levels["records"] > 0].to_dict("records")
    rows = [
        (
            "first digit" if row["level"] == 1 else f"first {row['level']} digits",
            row["share"],
            f"{_percent(row['share'])} of {row['records']:,}",
        )
        for row in levels
    ]
    return Panel("Agreement by level", rows, "#8bb174")


def _moves(changes: Changes) -> Panel:
    moves = changes.moves.head(DRAWN).to_dict("records")
    rows = [
        (
            f"{_short(row['before_code'], row['before_label'])} → {_short(row['after_code'], row['after_label'])}",
            row["records"] / moves[0]["records"],
            f"{row['records']:,} ({_percent(row['share'])})",
        )
        for row in moves
    ]
    return Panel("The biggest moves", rows)


def _name(model: Model) -> str:
    return f"topic `{model.topic}`, model `{model.model_id}` (version {model.version})"


def _version(model: Model) -> str:
    return f"{model.topic} {model.model_id[:8] if model.version is None else f'{model.version:g}'}"


def _short(code: str, label: str) -> str:
    return shorten(f"{code} {label}", 30, placeholder=" …")


def _percent(share: float) -> str:
    return "" if pd.isna(share) else f"{share:.1%}"


def _part(count: int, whole: int) -> str:
    return f"{count:,} ({_percent(count / whole)})" if whole else f"{count:,}"


def _markdown(frame: pd.DataFrame) -> str:
    """A table whose cells say nothing to a reader of Markdown or HTML but their text."""
    if frame.empty:
        return "None."
    told = frame.round(3).map(
        lambda cell: "" if pd.isna(cell) else f"{cell:,}" if isinstance(cell, int) else str(cell)
    )
    told = told.rename(columns=lambda name: name.replace("_", " "))
    told = told.map(lambda cell: escape(" ".join(cell.split()), quote=False).replace("|", "\\|"))
    return str(told.to_markdown(index=False, disable_numparse=True))
