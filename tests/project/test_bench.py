"""The check of the benchmark: a ratio falls behind if no spread explains it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.chart import Panel, draw_panels
from bench.ratios import Ratio, find_regressions, read_ratios, write_ratios


def test_a_ratio_shows_its_median_and_its_spread() -> None:
    assert str(Ratio([0.5, 1.0, 0.75])) == "0.75 (0.50 to 1.00)"
    assert str(Ratio([0.5])) == "0.50"


@pytest.mark.parametrize(
    ("rounds", "falls_behind"),
    [
        pytest.param([0.9, 1.2, 1.3], False, id="the spreads overlap"),
        pytest.param([1.05, 1.2, 1.3], False, id="it is hardly above the earlier ones"),
        pytest.param([1.15, 1.2, 1.3], True, id="every round is clearly above every earlier one"),
        pytest.param([3.0], False, id="a single round has no spread"),
        pytest.param([0.1, 0.2, 0.3], False, id="it is better"),
    ],
)
def test_a_ratio_falls_behind_if_every_round_is_clearly_above_every_earlier_one(
    rounds: list[float], falls_behind: bool
) -> None:
    earlier = {"land: time to polars": Ratio([0.8, 0.9, 1.0])}
    regressions = find_regressions({"land: time to polars": Ratio(rounds)}, earlier)
    assert bool(regressions) is falls_behind


def test_a_regression_names_the_ratio_and_both_spreads() -> None:
    (sentence,) = find_regressions({"a": Ratio([3.0, 4.0])}, {"a": Ratio([1.0, 2.0]), "b": Ratio([1.0])})
    assert sentence == "a: 3.50 (3.00 to 4.00), but it was 1.50 (1.00 to 2.00)"


def test_a_ratio_that_the_page_does_not_have_yet_has_not_fallen_behind() -> None:
    assert find_regressions({"a": Ratio([3.0])}, {}) == []


def test_ratios_that_were_written_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    assert read_ratios(path) == {}
    write_ratios(path, {"a": Ratio([0.12345, 2.0])})
    assert read_ratios(path) == {"a": Ratio([0.123, 2.0])}


def test_the_same_figures_give_the_same_picture_with_the_names_of_all_ways(tmp_path: Path) -> None:
    panels = [
        Panel(f"panel {number}", "seconds", {"ours": {10: 1.0, 100: 5.0}, "pandas": {10: 2.0, 100: 9.0}})
        for number in range(2)
    ]
    for name in ("first.svg", "second.svg"):
        draw_panels(panels, tmp_path / name)
    content = (tmp_path / "first.svg").read_text()
    assert content == (tmp_path / "second.svg").read_text()
    texts = {element.text for element in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text")}
    assert {"ours", "pandas", "panel 0", "panel 1", "seconds"} <= texts
