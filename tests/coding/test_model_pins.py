"""The model of a backfill: asked for once."""

import threading

import pytest

from include.coding.model_pins import pin_model
from tests.coding.conftest import MODEL, OTHER_MODEL
from tests.support.warehouses import open_warehouse


class Service:
    """Answers with the model that is the latest, and counts how often it was asked."""

    def __init__(self):
        self.asked, self.latest = 0, (MODEL, 1.0)

    def ask(self):
        self.asked += 1
        return self.latest


@pytest.fixture
def service():
    return Service()


def pin(place, service, backfill="1 of today", topic="osca", model="latest"):
    return pin_model(open_warehouse(place), "coding", backfill, topic, model, service.ask)


def test_all_runs_of_a_backfill_have_the_model_of_the_first_whatever_is_the_latest(place, service):
    assert pin(place, service) == (MODEL, 1.0)
    service.latest = (OTHER_MODEL, 2.0)
    assert pin(place, service) == (MODEL, 1.0)
    assert service.asked == 1


def test_another_backfill_topic_or_question_is_answered_anew(place, service):
    pin(place, service)
    service.latest = (OTHER_MODEL, None)
    for other in ({"backfill": "2 of today"}, {"topic": "anzsco"}, {"model": OTHER_MODEL}):
        assert pin(place, service, **other) == (OTHER_MODEL, None)
    assert service.asked == 4


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_of_runs_that_begin_at_once_all_have_one_model(place):
    start, found = threading.Barrier(8), []

    def run(number):
        service = Service()
        service.latest = (f"model-{number}", float(number))
        pin(place, service, backfill="tables are there", model="other")
        start.wait()
        found.append(pin(place, service))

    threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_model_that_the_service_refuses_is_pinned_to_nothing(place, service):
    def refuse():
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        pin_model(open_warehouse(place), "coding", "1 of today", "osca", "latest", refuse)
    assert pin(place, service) == (MODEL, 1.0)
