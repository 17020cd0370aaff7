"""The model of a backfill: the service is asked once, and all runs use its answer."""

import threading

import pytest

from include.coding.model_pins import pin_model
from tests.coding.conftest import MODEL, OTHER_MODEL, on_all_warehouses, on_postgres
from tests.support.warehouses import open_warehouse


class Service:
    """Answers with its latest model, and counts the calls."""

    def __init__(self):
        self.calls, self.latest = 0, (MODEL, 1.0)

    def ask(self):
        self.calls += 1
        return self.latest


@pytest.fixture
def service():
    return Service()


def pin(place, service, backfill="1 of today", topic="osca", model="latest"):
    return pin_model(open_warehouse(place), "coding", backfill, topic, model, service.ask)


@on_all_warehouses
def test_all_runs_of_a_backfill_use_the_model_of_the_first_one(place, service):
    assert pin(place, service) == (MODEL, 1.0)
    service.latest = (OTHER_MODEL, 2.0)
    assert pin(place, service) == (MODEL, 1.0)
    assert service.calls == 1


def test_another_backfill_topic_or_requested_model_is_asked_for_again(place, service):
    pin(place, service)
    service.latest = (OTHER_MODEL, None)
    for changes in ({"backfill": "2 of today"}, {"topic": "anzsco"}, {"model": OTHER_MODEL}):
        assert pin(place, service, **changes) == (OTHER_MODEL, None)
    assert service.calls == 4


@on_postgres
def test_runs_that_start_at_the_same_time_use_one_model(place):
    start, models = threading.Barrier(8), []

    def run(number):
        service = Service()
        service.latest = (f"model-{number}", float(number))
        pin(place, service, backfill="creates the tables", model="other")
        start.wait()
        models.append(pin(place, service))

    threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 8
    assert len(set(models)) == 1


def test_a_model_that_the_service_refuses_is_not_pinned(place, service):
    def refuse():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        pin_model(open_warehouse(place), "coding", "1 of today", "osca", "latest", refuse)
    assert pin(place, service) == (MODEL, 1.0)
