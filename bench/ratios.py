"""The ratios of this pipeline to others, with their spread, and the check that none of them falls behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

#: By what factor the lowest ratio has to exceed the highest earlier one to have fallen behind, because three rounds
#: show only a part of the spread.
MIN_REGRESSION_FACTOR = 1.1


@dataclass(frozen=True)
class Ratio:
    """A ratio in each round of a measurement. Lower is better.

    :param rounds: the ratios in the order of the rounds, at least one
    """

    rounds: Sequence[float]

    def __str__(self) -> str:
        """Return the median, and the lowest and the highest ratio if there are several."""
        if len(self.rounds) == 1:
            return f"{self.rounds[0]:.2f}"
        return f"{median(self.rounds):.2f} ({min(self.rounds):.2f} to {max(self.rounds):.2f})"

    def falls_behind(self, earlier: Ratio) -> bool:
        """Return whether even the lowest ratio is clearly above all earlier ones, so that no spread explains it. The
        spread of a single round is unknown, so it never falls behind."""
        has_spreads = len(self.rounds) > 1 and len(earlier.rounds) > 1
        return has_spreads and min(self.rounds) > MIN_REGRESSION_FACTOR * max(earlier.rounds)


def read_ratios(path: Path) -> dict[str, Ratio]:
    """Return the ratios of a file by name; none if there is no file."""
    if not path.exists():
        return {}
    return {name: Ratio(rounds) for name, rounds in json.loads(path.read_text(encoding="utf-8")).items()}


def write_ratios(path: Path, ratios: Mapping[str, Ratio]) -> None:
    """Write ratios to a file, to three decimal places."""
    content = {name: [round(value, 3) for value in ratio.rounds] for name, ratio in ratios.items()}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def find_regressions(measured: Mapping[str, Ratio], earlier: Mapping[str, Ratio]) -> list[str]:
    """Return a sentence for each ratio that has fallen behind the earlier one (:meth:`Ratio.falls_behind`)."""
    return [
        f"{name}: {ratio}, but it was {earlier[name]}"
        for name, ratio in measured.items()
        if name in earlier and ratio.falls_behind(earlier[name])
    ]
