"""Log lines about a long coding: few, with records, share and rate."""

import logging

import pytest

from include.local_service.core.progress import LOG, LOG_INTERVAL_S, Progress


class ManualClock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def log_lines():
    """The messages of the log."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda entry: lines.append(entry.getMessage())
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield lines
    LOG.removeHandler(handler)
    LOG.setLevel(logging.NOTSET)


def test_the_progress_of_a_long_coding_is_logged_at_most_once_per_interval(log_lines):
    clock = ManualClock()
    progress = Progress("op", 1_000_000, clock)
    for step in range(1, 41):
        clock.now += LOG_INTERVAL_S / 10
        progress.advance(step * 1000, step * 20_000)
    assert log_lines == [
        "operation op: 10,000 records, 20%, 2,000/s",
        "operation op: 20,000 records, 40%, 2,000/s",
        "operation op: 30,000 records, 60%, 2,000/s",
        "operation op: 40,000 records, 80%, 2,000/s",
    ]


def test_the_end_is_always_logged(log_lines):
    clock = ManualClock()
    progress = Progress("op", 10, clock)
    clock.now += 2
    progress.end(3000)
    assert log_lines == ["operation op: coded 3,000 records in 2.0 s, 1,500/s"]
