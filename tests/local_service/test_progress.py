"""Lines about a long coding: rare, and with what a person wants to know."""

import logging

import pytest

from include.local_service.core.progress import LOG, LOG_INTERVAL_S, Progress


class Watch:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def told():
    """What is logged."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda entry: lines.append(entry.getMessage())
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield lines
    LOG.removeHandler(handler)
    LOG.setLevel(logging.NOTSET)


def test_a_long_coding_is_told_at_most_once_a_period(told):
    watch = Watch()
    progress = Progress("op", 1_000_000, watch)
    for step in range(1, 41):
        watch.now += LOG_INTERVAL_S / 10
        progress.advance(step * 1000, step * 20_000)
    assert told == [
        "operation op: 10,000 records, 20%, 2,000/s",
        "operation op: 20,000 records, 40%, 2,000/s",
        "operation op: 30,000 records, 60%, 2,000/s",
        "operation op: 40,000 records, 80%, 2,000/s",
    ]


def test_the_end_is_always_told(told):
    watch = Watch()
    progress = Progress("op", 10, watch)
    watch.now += 2
    progress.end(3000)
    assert told == ["operation op: coded 3,000 records in 2.0 s, 1,500/s"]
