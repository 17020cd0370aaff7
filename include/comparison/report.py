"""The report of a comparison: Markdown, with a picture beside it."""

from __future__ import annotations

import logging
from textwrap import shorten

import pandas as pd

from include.coding.markdown import escape_cell
from include.coding.source_access import DEFAULT_ACCESS, SourceAccess
from include.coding.staging import REPORT, Staging
from include.comparison.changes import MAX_TABLE_ROWS, Changes, find_changes
from include.comparison.comparison import Comparison, Model
from include.comparison.picture import Panel, render_svg
from include.warehouse.warehouse import Warehouse

PICTURE = "picture.svg"
MAX_PICTURE_MOVES = 12

log = logging.getLogger(__name__)


def write_comparison(
    comparison: Comparison, warehouse: Warehouse, staging: Staging, access: SourceAccess = DEFAULT_ACCESS
) -> str:
    """Write the report and its picture, log the report without the texts of records, and return its URI.

    :param access: what runs may read as crosswalk
    """
    with warehouse.session(read_only=True) as session:
        changes = find_changes(comparison, session, access)
    log.info("%s", _render_report(changes, changes.samples))
    samples = changes.samples
    if comparison.with_texts:
        samples = samples.merge(changes.texts, on="text_key", how="left")
    staging.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in ((PICTURE, _render_picture(changes)), (REPORT, _render_report(changes, samples))):
        path = staging.scratch / name
        path.write_text(text, encoding="utf-8")
        uri = staging.keep(path)
    return uri


def _render_report(changes: Changes, samples: pd.DataFrame) -> str:
    coded = sum(changes.verdicts.values())
    outcomes = changes.outcomes.assign(all=changes.outcomes.sum(axis=1))
    outcomes.loc["all"] = outcomes.sum()
    agreement = changes.agreement.assign(share=changes.agreement["share"].map(_format_percent))
    moves = changes.moves.assign(share=changes.moves["share"].map(_format_percent))
    sections = [
        _render_summary(changes, coded),
        f"![The changes as a picture]({PICTURE})",
        "## Outcomes\n\nRecords in both models, by outcome before (rows) and after (columns).\n\n"
        + _render_table(outcomes.rename_axis("before").reset_index()),
        "## Agreement by level\n\nFor each level n: of the records whose codes both have n digits or more, the share"
        f" whose codes agree in the first n digits.\n\n{_render_table(agreement)}",
        "## Most frequent moves\n\nThe share is of all moved records.\n\n" + _render_table(moves),
        "## Codes whose label changed\n\n" + _render_table(changes.label_changes.head(MAX_TABLE_ROWS)),
        "## Confidence\n\nRecords that both models coded.\n\n" + _render_table(changes.confidence),
    ]
    if changes.comparison.crosswalk:
        counts = changes.missing_codes["missing_as"].value_counts()
        sections.append(
            f"## Codes missing from the crosswalk\n\n{counts.get('from_code', 0)} codes before (`from_code`) and"
            f" {counts.get('to_code', 0)} codes after (`to_code`). Those with the most records:\n\n"
            + _render_table(changes.missing_codes.groupby("missing_as").head(MAX_TABLE_ROWS))
        )
    sections.append(
        "## Samples of moved records\n\nOne record for each text, selected by the hash of the text; `records with"
        f" text` counts the moved records with that text.\n\n{_render_table(samples)}"
    )
    return "\n\n".join(sections) + "\n"


def _render_summary(changes: Changes, coded: int) -> str:
    comparison, verdicts = changes.comparison, changes.verdicts
    crosswalk = f" Crosswalk: `{comparison.crosswalk}`." if comparison.crosswalk else ""
    lines = [
        "# What changed between two models",
        "",
        f"Before: {_describe(changes.before)}. After: {_describe(changes.after)}.",
        f"Response dates: {comparison.from_date or 'the first'} to {comparison.to_date or 'the last'}.{crosswalk}",
        "",
        f"- Records in both models: {changes.in_both:,}; only before: {changes.only_before:,}; only after:"
        f" {changes.only_after:,}.",
        f"- Coded by both models: {coded:,}. Kept their code: {_format_share(verdicts['kept'], coded)};"
        f" moved to another one: {_format_share(verdicts['moved'], coded)}.",
        f"- Gained a code: {changes.gained_code:,}; lost their code: {changes.lost_code:,}.",
    ]
    if verdicts["unmapped"]:
        lines.append(
            "- Neither kept nor moved, because their old code is missing from the crosswalk:"
            f" {_format_share(verdicts['unmapped'], coded)}."
        )
    if changes.text_changes:
        lines.append(f"- Coded by both models, from a text that changed in the source: {changes.text_changes:,}.")
    return "\n".join(lines)


def _render_picture(changes: Changes) -> str:
    before, after = _format_version(changes.before), _format_version(changes.after)
    panels = [_make_result_panel(changes), _make_agreement_panel(changes), _make_moves_panel(changes)]
    return render_svg(f"{before} to {after}: {changes.in_both:,} records in both models", panels)


def _make_result_panel(changes: Changes) -> Panel:
    counts = {
        "kept their code": changes.verdicts["kept"],
        "moved to another code": changes.verdicts["moved"],
        "old code missing from the crosswalk": changes.verdicts["unmapped"],
        "gained a code": changes.gained_code,
        "lost their code": changes.lost_code,
        "no code before or after": changes.without_code,
    }
    total = changes.in_both
    rows = [(name, count / total, _format_share(count, total)) for name, count in counts.items() if count]
    return Panel("What changed", rows, "#d1a95c")


def _make_agreement_panel(changes: Changes) -> Panel:
    levels = changes.agreement[changes.agreement["records"] > 0].to_dict("records")
    rows = [
        (
            "first digit" if row["level"] == 1 else f"first {row['level']} digits",
            row["share"],
            f"{_format_percent(row['share'])} of {row['records']:,}",
        )
        for row in levels
    ]
    return Panel("Agreement by level", rows, "#8bb174")


def _make_moves_panel(changes: Changes) -> Panel:
    moves = changes.moves.head(MAX_PICTURE_MOVES).to_dict("records")
    rows = [
        (
            " → ".join(_shorten(f"{row[f'{side}_code']} {row[f'{side}_label']}") for side in ("before", "after")),
            row["records"] / moves[0]["records"],
            f"{row['records']:,} ({_format_percent(row['share'])})",
        )
        for row in moves
    ]
    return Panel("Most frequent moves", rows)


def _describe(model: Model) -> str:
    return f"topic `{model.topic}`, model `{model.model_id}` (version {model.version})"


def _format_version(model: Model) -> str:
    return f"{model.topic} {model.model_id[:8] if model.version is None else f'{model.version:g}'}"


def _shorten(text: str) -> str:
    return shorten(text, 30, placeholder=" …")


def _format_percent(share: float) -> str:
    return "" if pd.isna(share) else f"{share:.1%}"


def _format_share(count: int, total: int) -> str:
    return f"{count:,} ({_format_percent(count / total)})" if total else f"{count:,}"


def _render_table(frame: pd.DataFrame) -> str:
    """Return a Markdown table whose cells are escaped, so that none of them can contain Markdown or HTML."""
    if frame.empty:
        return "None."
    cells = frame.round(3).map(
        lambda cell: "" if pd.isna(cell) else f"{cell:,}" if isinstance(cell, int) else str(cell)
    )
    cells = cells.rename(columns=lambda name: name.replace("_", " "))
    cells = cells.map(escape_cell)
    return str(cells.to_markdown(index=False, disable_numparse=True))
