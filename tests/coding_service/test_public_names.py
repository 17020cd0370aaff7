"""The names that users import."""

import inspect

import pytest
from airflow.providers.http.hooks.http import HttpAsyncHook, HttpHook
from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

import coding_service

BASES = {
    "CodingServiceOperator": BaseOperator,
    "CodingServiceCreateOperator": coding_service.CodingServiceOperator,
    "CodingServiceUploadOperator": coding_service.CodingServiceOperator,
    "CodingServiceDownloadOperator": coding_service.CodingServiceOperator,
    "BatchCodeSensor": BaseSensorOperator,
    "BatchCodeTrigger": BaseTrigger,
    "CodingServiceHook": HttpHook,
    "CodingServiceAsyncHook": HttpAsyncHook,
}


@pytest.mark.parametrize("name", coding_service.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    assert inspect.getdoc(getattr(coding_service, name))


@pytest.mark.parametrize("name", BASES)
def test_the_documented_names_are_public_and_have_their_base_class(name):
    assert name in coding_service.__all__
    assert issubclass(getattr(coding_service, name), BASES[name])


def test_the_list_of_public_names_is_sorted_and_has_no_duplicates():
    assert coding_service.__all__ == sorted(set(coding_service.__all__))


def test_the_connection_type_is_the_documented_one():
    for hook in (coding_service.CodingServiceHook, coding_service.CodingServiceAsyncHook):
        assert (hook.conn_type, hook.default_conn_name) == ("coding_service", "coding_service_default")
