"""The report of a comparison, with its picture inside, and the picture as a file for slides."""

from __future__ import annotations

from textwrap import shorten

import pandas as pd

from include.coding.document import Document, Section, Table, store_document, store_file
from include.coding.markdown import format_code
from include.coding.picture import Panel, render_svg
from include.coding.source_access import DEFAULT_ACCESS, SourceAccess
from include.coding.staging import PICTURE, Staging
from include.comparison.changes import MAX_TABLE_ROWS, Changes, find_changes
from include.comparison.comparison import Comparison, Model
from include.warehouse.warehouse import Warehouse

MAX_PICTURE_MOVES = 12
#: Columns of the samples with what people wrote.
TEXT_COLUMNS = ("occp_text", "tasks_text")


def write_comparison(
    comparison: Comparison, warehouse: Warehouse, staging: Staging, access: SourceAccess = DEFAULT_ACCESS
) -> str:
    """Write the report and its picture, log the report without the texts of records, and return its URI.

    :param access: what runs may read as crosswalk
    """
    with warehouse.session(read_only=True) as session:
        changes = find_changes(comparison, session, access)
    document = _make_document(changes)
    staging.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    store_file(PICTURE, render_svg(document.picture_title, document.panels), staging)
    return store_document(document, staging)


def _make_document(changes: Changes) -> Document:
    coded, with_texts = sum(changes.verdicts.values()), changes.comparison.with_texts
    before, after = _format_version(changes.before), _format_version(changes.after)
    return Document(
        "What changed between two models",
        _describe_subject(changes),
        facts={
            "records_in_both": changes.in_both,
            "coded_by_both": coded,
            **changes.verdicts,
            "gained_code": changes.gained_code,
            "lost_code": changes.lost_code,
        },
        notes=_describe_changes(changes, coded),
        sections=_make_sections(changes, with_texts),
        panels=[_make_result_panel(changes), _make_agreement_panel(changes), _make_moves_panel(changes)],
        picture_title=f"{before} to {after}: {changes.in_both:,} records in both models",
        picture_uri=PICTURE,
    )


def _make_sections(changes: Changes, with_texts: bool) -> list[Section]:
    outcomes = changes.outcomes.assign(all=changes.outcomes.sum(axis=1))
    outcomes.loc["all"] = outcomes.sum()
    samples = changes.samples.merge(changes.texts, on="text_key", how="left") if with_texts else changes.samples
    sections = [
        Section(
            "Outcomes",
            Table.from_frame(outcomes.rename_axis("before").reset_index()),
            "Records in both models, by outcome before (rows) and after (columns).",
        ),
        Section(
            "Agreement by level",
            Table.from_frame(changes.agreement),
            "For each level n: of the records whose codes both have n digits or more, the share whose codes agree in"
            " the first n digits.",
        ),
        Section("Most frequent moves", Table.from_frame(changes.moves), "The share is of all moved records."),
        Section("Codes whose label changed", Table.from_frame(changes.label_changes.head(MAX_TABLE_ROWS))),
        Section("Confidence", Table.from_frame(changes.confidence), "Records that both models coded."),
    ]
    if changes.comparison.crosswalk:
        counts = changes.missing_codes["missing_as"].value_counts()
        sections.append(
            Section(
                "Codes missing from the crosswalk",
                Table.from_frame(changes.missing_codes.groupby("missing_as").head(MAX_TABLE_ROWS)),
                f"{counts.get('from_code', 0)} codes before (`from_code`) and {counts.get('to_code', 0)} codes after"
                " (`to_code`). Those with the most records:",
            )
        )
    sections.append(
        Section(
            "Samples of moved records",
            Table.from_frame(samples, TEXT_COLUMNS if with_texts else ()),
            "One record for each text, selected by the hash of the text; `records with text` counts the moved records"
            " with that text.",
        )
    )
    return sections


def _describe_subject(changes: Changes) -> str:
    comparison = changes.comparison
    crosswalk = f" Crosswalk: {format_code(comparison.crosswalk)}." if comparison.crosswalk else ""
    return (
        f"Before: {_describe(changes.before)}. After: {_describe(changes.after)}.\n"
        f"Response dates: {comparison.from_date or 'the first'} to {comparison.to_date or 'the last'}.{crosswalk}"
    )


def _describe_changes(changes: Changes, coded: int) -> list[str]:
    verdicts = changes.verdicts
    sentences = [
        f"Records in both models: {changes.in_both:,}; only before: {changes.only_before:,}; only after:"
        f" {changes.only_after:,}.",
        f"Coded by both models: {coded:,}. Kept their code: {_format_share(verdicts['kept'], coded)};"
        f" moved to another one: {_format_share(verdicts['moved'], coded)}.",
        f"Gained a code: {changes.gained_code:,}; lost their code: {changes.lost_code:,}.",
    ]
    if verdicts["unmapped"]:
        sentences.append(
            "Neither kept nor moved, because their old code is missing from the crosswalk:"
            f" {_format_share(verdicts['unmapped'], coded)}."
        )
    if changes.text_changes:
        sentences.append(f"Coded by both models, from a text that changed in the source: {changes.text_changes:,}.")
    return sentences


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
    return f"topic {format_code(model.topic)}, model `{model.model_id}` (version {model.version})"


def _format_version(model: Model) -> str:
    return f"{model.topic} {model.model_id[:8] if model.version is None else f'{model.version:g}'}"


def _shorten(text: str) -> str:
    return shorten(text, 30, placeholder=" …")


def _format_percent(share: float) -> str:
    return "" if pd.isna(share) else f"{share:.1%}"


def _format_share(count: int, total: int) -> str:
    return f"{count:,} ({_format_percent(count / total)})" if total else f"{count:,}"
