"""What the coder of the local service gets right, what its confidence is worth and what it costs: `make bench`.

With the ABS workbooks (``../shared/data`` beside the project, or where SHARED_DATA says) on OSCA with its 1,156
occupations, else on the classification that is shipped. Held out are a fifth of the titles, drawn by their text
from the whole index, labels of occupations included: no occupation keeps such a title, nor one of its tasks.
Speed is measured against a plain scikit-learn pipeline (flat TF-IDF and LinearSVC) on the same texts, in the same
process and in processor time, so that another machine gives about the same ratio.
"""

# ruff: noqa: E402 - the project is no package that is installed: its root comes first on the path
from __future__ import annotations

import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from include.local_service.coder.classifications import SHIPPED_CLASSIFICATION
from include.local_service.coder.coder import Coder
from include.local_service.coder.evaluation import evaluate, make_texts, report_lines
from include.local_service.coder.features import Pair
from include.local_service.coder.hierarchy import Category, read_categories, write_categories
from include.local_service.coder.workbooks import import_workbooks

SHARED = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
SEEDS = range(5)
ROUNDS = 5
TEXTS = 20_000
TRAINS_AND_EXITS = "import sys; from pathlib import Path; from include.local_service.coder.coder import Coder; " \
    "Coder.train(Path(sys.argv[1])).code([('cook', 'cooks')])"  # fmt: skip


def main() -> None:
    categories = read_classification()
    report_accuracy(categories)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classification.jsonl"
        path.write_bytes(write_categories(categories))
        report_memory(path)
        began = time.process_time()
        coder = Coder.train(path)
        report_cost(coder, categories, time.process_time() - began)
    if (SHARED / "coded_freetext.csv").exists():
        report_isco(coder)


def read_classification() -> list[Category]:
    released = SHARED / "abs_original"
    if not released.exists():
        print(f"local coder on the shipped classification; there are no workbooks in {released}")
        return read_categories(SHIPPED_CLASSIFICATION.read_bytes())
    print("local coder on OSCA as imported")
    return import_workbooks(released / "OSCA structure.xlsx", released / "OSCA Category Descriptions.xlsx")


def report_accuracy(categories: Sequence[Category]) -> None:
    print(f"{len(SEEDS)} draws of held-out titles, mean and standard deviation")
    print(*report_lines(*(evaluate(categories, seed=seed) for seed in SEEDS)), sep="\n")


def report_memory(path: Path) -> None:
    subprocess.run([sys.executable, "-c", TRAINS_AND_EXITS, str(path)], cwd=ROOT, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of a process that trains and codes: {peak / 1024:.0f} MB")


def report_cost(coder: Coder, categories: Sequence[Category], training_seconds: float) -> None:
    began = time.process_time()
    plain = fit_plain(categories)
    plain_seconds = time.process_time() - began
    # Other texts every time, for the coder remembers words; and by turns, so that whatever else the machine
    # does at the time falls on both.
    rounds = [measure_round(coder, plain, make_texts(categories, TEXTS, seed)) for seed in range(ROUNDS)]
    ours, ratio = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"coding: {ours:,.0f} distinct texts a second, {ratio:.1f} times a flat LinearSVC (medians of {ROUNDS})")
    print(f"training: {training_seconds:.0f} s, {training_seconds / plain_seconds:.2f} times a flat LinearSVC")


def measure_round(coder: Coder, plain: Pipeline, texts: Sequence[Pair]) -> tuple[float, float]:
    """Return our texts a second, and how many times that of the plain pipeline it is."""
    joined = [" ".join(text) for text in texts]
    ours = measure(lambda: coder.code(texts))
    return len(texts) / ours, measure(lambda: plain.predict(joined)) / ours


def fit_plain(categories: Sequence[Category]) -> Pipeline:
    rows = [(text, one.code) for one in categories for text in (*one.titles, *one.tasks)]
    plain = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)), LinearSVC(random_state=0))
    return plain.fit([text for text, _ in rows], [code for _, code in rows])


def measure(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def report_isco(coder: Coder) -> None:
    """85 survey-like rows coded to ISCO-08, on which nothing is tuned: right if any code of the occupation agrees."""
    isco = defaultdict(set)
    for row in read_csv("xwalk_osca2024_isco08.csv"):
        isco[row["osca_code"]].add(row["isco08_code"])
    rows = [row for row in read_csv("coded_freetext.csv") if row["source"] == "isco_benchmark"]
    pairs: list[Pair] = [(row["occp_text"], row["tasks_text"]) for row in rows]
    given = [coding.result.code for coding in coder.with_threshold(0).code(pairs) if coding.result]
    for digits in range(1, 5):
        judged = [
            (isco[code], row["code"]) for code, row in zip(given, rows, strict=True) if len(row["code"]) >= digits
        ]
        right = statistics.mean(any(one[:digits] == true[:digits] for one in codes) for codes, true in judged)
        print(f"survey-like rows, {digits} digits of ISCO-08: {right:.1%} of {len(judged)}")


def read_csv(name: str) -> list[dict[str, str]]:
    with (SHARED / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
