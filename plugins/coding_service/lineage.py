"""Lineage for OpenLineage: the operation of a task, its part and its model, and the files that it reads and writes.

Airflow's OpenLineage provider is optional. It calls the methods of :class:`OperationLineageMixin` and catches what
they raise; without it nothing calls them. So the functions import it where they need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from coding_service.hooks import CodingServiceHook
from coding_service.models import GUID, InputPart, check_file, check_model, check_topic

#: Name of the run facet with the fields of the coding.
CODING_FACET = "occupationCoding"


def is_active() -> bool:
    """Return whether lineage is sent: the provider is installed and configured."""
    try:
        from airflow.providers.openlineage.conf import is_disabled
    except ImportError:
        return False
    if is_disabled():
        return False
    from airflow.providers.openlineage.api import is_openlineage_active

    return bool(is_openlineage_active())


class OperationLineageMixin:
    """The methods that Airflow's OpenLineage provider calls for each task of an operator.

    It calls them in a fork of the process of the task, where Airflow's API may not answer. So the task remembers what
    they need while it works.
    """

    _lineage_id: str | None = None
    _lineage_source: str | None = None
    _lineage_files: Mapping[str, Any] = MappingProxyType({})

    def remember_for_lineage(self, operation_id: Any, files: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Remember the operation of the task, and the files that it downloaded; nothing while lineage is not active.

        :param files: a :class:`coding_service.models.DownloadResult` as a dict
        """
        with suppress(Exception):  # lineage never fails a task
            if is_active() and isinstance(operation_id, str) and GUID.fullmatch(operation_id):
                self._lineage_id, self._lineage_files = operation_id, files
                self._lineage_source = self._lineage_source or _find_service(self)

    def get_openlineage_facets_on_start(self) -> Any:
        return _describe_task(self, None, None, {})

    def get_openlineage_facets_on_complete(self, _: Any) -> Any:
        """Return the lineage of an attempt that has ended, also of one that failed."""
        return _describe_task(self, self._lineage_id, self._lineage_source, self._lineage_files)


def name_file(uri: str) -> tuple[str, str] | None:
    """Return namespace and name of a file as OpenLineage writes them; None unless it is a file:// or an s3:// URI."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", unquote(parts.path)
    return (f"s3://{parts.netloc.rpartition('@')[2]}", parts.path.lstrip("/")) if parts.scheme == "s3" else None


def make_coding_facet(**fields: Any) -> dict[str, Any]:
    """Return the run facet with the fields that have a value."""
    from airflow.providers.common.compat.openlineage.facet import RunFacet

    values = {name: value for name, value in fields.items() if value is not None}
    return {CODING_FACET: RunFacet().with_additional_properties(**values)}


def _describe_task(task: Any, operation_id: str | None, service: str | None, files: Mapping[str, Any]) -> Any:
    """Return the `OperatorLineage` of a task. Nothing is in it that is not a checked id, a number, or a file's name.

    :param service: address of the service
    :param files: what the task downloaded
    """
    from airflow.providers.common.compat.openlineage.facet import (
        ExternalQueryRunFacet,
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    part, number = _read_part(task)
    records = files.get("input_records", part.records)
    run_facets = make_coding_facet(topic=part.topic, modelId=part.model_id, part=number, records=records)
    if operation_id is not None:
        run_facets["externalQuery"] = ExternalQueryRunFacet(externalQueryId=operation_id, source=service or "")
    uses_input = "input_file" in task.template_fields
    input_file = name_file(part.input_uri if uses_input else files.get("input_uri") or "")
    output_file, metadata_file = (name_file(files.get(name) or "") for name in ("output_uri", "metadata_uri"))
    outputs = []
    if output_file:
        statistics = OutputStatisticsOutputDatasetFacet(rowCount=files.get("records"), size=files.get("bytes"))
        outputs.append(OutputDataset(*output_file, outputFacets={"outputStatistics": statistics}))
    if metadata_file:
        outputs.append(OutputDataset(*metadata_file))
    return OperatorLineage(
        inputs=[InputDataset(*input_file)] if input_file else [], outputs=outputs, run_facets=run_facets
    )


def _read_part(task: Any) -> tuple[InputPart, int | None]:
    """Return what a task codes, and the number of the part, if it has one.

    :raises ProtocolError: an argument is not what it has to be
    """
    if isinstance(task.part, Mapping):
        number = task.part.get("part")
        return InputPart.from_dict(task.part), number if isinstance(number, int) else None
    model, input_file = (getattr(task, name, None) for name in ("model", "input_file"))
    input_uri = "" if input_file is None else check_file(input_file, "the input file")
    return InputPart(check_topic(task.topic), check_model(model), input_uri), None


def _find_service(task: Any) -> str:
    """Return the address of the service, without anything that a connection can add to it."""
    parts = urlsplit(CodingServiceHook(task.coding_service_conn_id).settings.api_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
