"""Measure the coder of the local service: its accuracy, the meaning of its confidence, its memory and its speed.

It uses OSCA with its 1,156 occupations if the ABS workbooks exist (in ``../shared/data`` beside the project, or in
the folder SHARED_DATA), else the classification of this project. A fifth of the titles is held out, drawn by text
from the whole index, occupation labels included: no occupation keeps such a title or one of its tasks. Speed is
compared with a plain scikit-learn pipeline (flat TF-IDF and LinearSVC) on the same texts, in the same process and in
CPU time, so that the ratio is about the same on other machines.
"""

from __future__ import annotations

import argparse
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

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from bench.measure import ROOT
from include.local_service.coder.classifications import SHIPPED_CLASSIFICATION
from include.local_service.coder.coder import Coder
from include.local_service.coder.evaluation import evaluate, make_texts, report_lines
from include.local_service.coder.features import Pair
from include.local_service.coder.hierarchy import Category, read_categories, write_categories
from include.local_service.coder.workbooks import import_workbooks

SHARED = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
DRAWS, ROUNDS = 5, 5
TEXTS = 20_000
TRAIN_AND_EXIT = "import sys; from pathlib import Path; from include.local_service.coder.coder import Coder; " \
    "Coder.train(Path(sys.argv[1])).code([('cook', 'cooks')])"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.local_coder", description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of held-out titles (default %(default)s)")
    draws = parser.parse_args().draws
    categories = read_classification()
    report_accuracy(categories, draws)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classification.jsonl"
        path.write_bytes(write_categories(categories))
        report_memory(path)
        start = time.process_time()
        coder = Coder.train(path)
        report_cost(coder, categories, time.process_time() - start)
    if (SHARED / "coded_freetext.csv").exists():
        report_isco(coder)


def read_classification() -> list[Category]:
    folder = SHARED / "abs_original"
    if not folder.exists():
        print(f"local coder with the classification of this project; there are no workbooks in {folder}")
        return read_categories(SHIPPED_CLASSIFICATION.read_bytes())
    print("local coder with OSCA, imported from its workbooks")
    return import_workbooks(folder / "OSCA structure.xlsx", folder / "OSCA Category Descriptions.xlsx")


def report_accuracy(categories: Sequence[Category], draws: int) -> None:
    print(f"{draws} draws of held-out titles, mean and standard deviation")
    print(*report_lines(*(evaluate(categories, seed=seed) for seed in range(draws))), sep="\n")


def report_memory(path: Path) -> None:
    subprocess.run([sys.executable, "-c", TRAIN_AND_EXIT, str(path)], cwd=ROOT, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of a process that trains and codes: {peak / 1024:.0f} MB")


def report_cost(coder: Coder, categories: Sequence[Category], training_seconds: float) -> None:
    start = time.process_time()
    plain = fit_plain(categories)
    plain_seconds = time.process_time() - start
    # Each round has new texts, because the coder caches words, and runs both coders, so that other load on the
    # machine affects both.
    rounds = [measure_round(coder, plain, make_texts(categories, TEXTS, seed)) for seed in range(ROUNDS)]
    rate, ratio = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"coding: {rate:,.0f} distinct texts per second, {ratio:.1f} times a flat LinearSVC (medians of {ROUNDS})")
    print(f"training: {training_seconds:.0f} s, {training_seconds / plain_seconds:.2f} times a flat LinearSVC")


def measure_round(coder: Coder, plain: Pipeline, texts: Sequence[Pair]) -> tuple[float, float]:
    """Return the texts per second of the local coder, and how many times that of the plain pipeline it is."""
    joined_texts = [" ".join(text) for text in texts]
    seconds = measure_cpu(lambda: coder.code(texts))
    return len(texts) / seconds, measure_cpu(lambda: plain.predict(joined_texts)) / seconds


def fit_plain(categories: Sequence[Category]) -> Pipeline:
    rows = [(text, one.code) for one in categories for text in (*one.titles, *one.tasks)]
    plain = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)), LinearSVC(random_state=0))
    return plain.fit([text for text, _ in rows], [code for _, code in rows])


def measure_cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def report_isco(coder: Coder) -> None:
    """Code 85 survey-like rows to ISCO-08, with which nothing was tuned. A row is correct if any ISCO-08 code of its
    occupation agrees."""
    isco = defaultdict(set)
    for row in read_csv("xwalk_osca2024_isco08.csv"):
        isco[row["osca_code"]].add(row["isco08_code"])
    rows = [row for row in read_csv("coded_freetext.csv") if row["source"] == "isco_benchmark"]
    pairs: list[Pair] = [(row["occp_text"], row["tasks_text"]) for row in rows]
    codes = [coding.result.code for coding in coder.with_threshold(0).code(pairs) if coding.result]
    for digits in range(1, 5):
        answers = [
            (isco[code], row["code"]) for code, row in zip(codes, rows, strict=True) if len(row["code"]) >= digits
        ]
        share = statistics.mean(any(one[:digits] == code[:digits] for one in matches) for matches, code in answers)
        print(f"survey-like rows, {digits} digits of ISCO-08: {share:.1%} of {len(answers)} are correct")


def read_csv(name: str) -> list[dict[str, str]]:
    with (SHARED / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
