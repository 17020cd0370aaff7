"""The hooks: typed methods for the service of an Airflow connection, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import aiohttp
import requests
from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.http.hooks.http import HttpAsyncHook, HttpHook, SessionConfig
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import amask_secret, mask_secret
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from coding_service import errors, protocol, tls, transfer
from coding_service.answer_limits import ANSWER_BLOCK_BYTES, PLAIN_BODY, AnswerBody, BodyError
from coding_service.bounded_connections import BoundedAdapter, read_blocks, watch_body
from coding_service.calls import MAX_POLL_WAIT_S, CallFlow, RunBlocking, Send, Step, Wait
from coding_service.clock import SYSTEM_CLOCK, Clock
from coding_service.connection_test import describe_error
from coding_service.models import Model, Operation, Topic, UploadGrant
from coding_service.protocol import Answer, Call
from coding_service.redaction import find_link_secrets, register_secrets
from coding_service.settings import ServiceSettings
from coding_service.shared_state import SharedRow
from coding_service.storage import FilePath

T = TypeVar("T")

#: Runs what can block, for the asynchronous hook.
BLOCKING_THREADS = ThreadPoolExecutor(4, thread_name_prefix="coding-service")

CONN_ID = "coding_service_default"
#: Fields of an input line; a model that needs other fields cannot be used.
INPUT_FIELDS = frozenset({"recordId", "occp_text", "tasks_text"})
#: Pauses before further status calls for a complete operation that offers no links (docs/service-contract.md 10.2).
LINK_PAUSES_S = (5.0, 10.0, 20.0)
#: When to try again to download from an operation that is not complete.
UNFINISHED_WAIT_S = 60.0


class TrustedBlockAdapter(tls.TrustedAdapter, transfer.BlockAdapter):
    """Sends files to storage in blocks, with the TLS context of the connection."""


class CodingServiceHook(HttpHook):
    """Calls the WoAG Occupation Coding Service.

    :param coding_service_conn_id: an Airflow connection with the base URL of the API as host, the client id as login,
        the client secret as password, and in its extra `auth_host` (base URL of the token endpoint). Optional extras:
        `requests_per_second`, `requests_per_day`, `poll_interval` (s), `authorization_prefix`, `allow_http`,
        `state_dir`, `budget_conn_id`, `storage_hosts`, and those of Airflow's HttpHook (`timeout`, `verify`, ...)
    :raises SettingsError: the connection does not exist, lacks a field or has a wrong value
    """

    conn_name_attr = "coding_service_conn_id"
    default_conn_name = CONN_ID
    conn_type = "coding_service"
    hook_name = "Occupation Coding Service"
    clock: Clock = SYSTEM_CLOCK

    def __init__(self, coding_service_conn_id: str = CONN_ID) -> None:
        super().__init__(http_conn_id=coding_service_conn_id)
        self.coding_service_conn_id = coding_service_conn_id

    def topics(self) -> tuple[Topic, ...]:
        """Return all topics of the service."""
        return self._call(protocol.list_topics())

    def models(self, topic: str) -> tuple[Model, ...]:
        """Return all models of `topic`."""
        return self._call(protocol.list_models(topic))

    def latest_model(self, topic: str) -> Model:
        """Return the latest model of `topic`."""
        return self._call(protocol.latest_model(topic))

    def pin_model(self, topic: str, model: str) -> Model:
        """Return the model of `topic` that has the GUID `model`, or the latest one if `model` is `latest`.

        :raises NotFoundError: there is no such topic or model; the message lists those that exist
        :raises RequestRefusedError: the model needs input fields that are not sent
        """
        uri_names = sorted(entry.uri_name for entry in self.topics())
        if topic not in uri_names:
            raise errors.NotFoundError(f"the service has no topic {topic!r}; it has {uri_names}")
        if model == "latest":
            return _check_input_fields(self.latest_model(topic))
        models = {entry.model_id: entry for entry in self.models(topic)}
        if model not in models:
            choices = [f"{entry.model_id} (version {entry.version})" for entry in models.values()]
            raise errors.NotFoundError(f"topic {topic!r} has no model {model!r}; use 'latest' or one of {choices}")
        return _check_input_fields(models[model])

    def create_operation(self, topic: str, model_id: str | None = None) -> UploadGrant:
        """Open a new operation, which is charged for: store its id before doing anything else.

        :param model_id: GUID of the model; None: the latest one
        """
        grant = self._call(protocol.create_operation(topic, model_id))
        _mask_links(grant.url, grant.kms_key_arn)
        return grant

    def operation(self, topic: str, operation_id: str) -> Operation:
        """Return the state of an operation, with fresh links if it is complete."""
        operation = self._call(protocol.get_operation(topic, operation_id))
        _mask_links(operation.output_url, operation.metadata_url)
        return operation

    def upload(self, grant: UploadGrant, path: FilePath, sha256: str | None = None) -> int:
        """Upload an input file and return its size in bytes.

        :param sha256: expected SHA-256 of the file (hexadecimal), if it is known
        :raises InputFileError: the file cannot be an input file, or does not have this SHA-256
        :raises GrantExpiredError: a new operation is needed
        :raises UploadInterruptedError: check the status before sending the file again, because it may have arrived
        :raises TransferError: storage could not take the file now
        """
        _mask_links(grant.url, grant.kms_key_arn)
        self.settings.check_link(grant.url, "the upload URL")
        return transfer.upload(self._storage, grant, path, timeout=self.settings.timeout, sha256=sha256)

    def download(
        self,
        topic: str,
        operation_id: str,
        output_path: FilePath,
        metadata_path: FilePath | None,
        expected_lines: int | None = None,
        input_bytes: int | None = None,
    ) -> tuple[transfer.Download, transfer.Download | None]:
        """Download the output file and the metadata file of a complete operation.

        The download of an earlier attempt is resumed. One status call returns both links; an expired link costs one
        more. A metadata file that is not offered or cannot be downloaded is returned as None, because it must not
        cost the output file (docs/service-contract.md 8.28).

        :param metadata_path: None: the metadata file is not downloaded
        :param expected_lines: number of lines that the output should have; None if unknown
        :param input_bytes: size of the input file, which limits that of the output; None if unknown
        :raises ProtocolError: the output is larger than it can be
        :raises OutputNotReadyError: the operation is complete, but its links or files are missing, even after half a
            minute: they come later (docs/service-contract.md 10.2), or have been deleted
        :raises NotFoundError: the service does not show the operation, or not yet
        :raises ServiceUnavailableError: the operation is not complete, or not yet
        :raises OperationFailedError: the operation ended without an output
        """
        links = self._links(topic, operation_id)

        def fresh_link(name: str) -> str:
            if name not in links:
                links.update(self._links(topic, operation_id))
            if name not in links:
                raise errors.OutputNotReadyError(f"operation {operation_id!r} no longer offers its {name} file")
            return links.pop(name)

        def fetch(name: str, path: FilePath, max_bytes: int, lines: int | None = None) -> transfer.Download:
            options: dict[str, Any] = {"timeout": self.settings.timeout, "sleep": self.clock.sleep}
            options |= {"max_bytes": max_bytes, "expected_lines": lines, "operation_id": operation_id}
            return transfer.download(self._storage, lambda: fresh_link(name), path, **options)

        try:
            output = fetch("output", output_path, transfer.output_limit(input_bytes), expected_lines)
        except errors.LinkExpiredError as error:
            raise errors.OutputNotReadyError(
                f"operation {operation_id!r} is complete, but {error}", status_code=error.status_code
            ) from None
        if metadata_path is None or "metadata" not in links:
            return output, None
        try:
            return output, fetch("metadata", metadata_path, transfer.MAX_METADATA_BYTES)
        except errors.CodingServiceError as error:
            self.log.warning("The metadata file of operation %r could not be downloaded: %s", operation_id, error)
            return output, None

    def paused_seconds(self, since: float) -> float:
        """Return for how long no calls were allowed from `since` (seconds since the epoch) until now."""
        return self._flow.paused_seconds(since)

    def test_connection(self) -> tuple[bool, str]:
        """List the topics, and return whether it worked, with what is wrong and what to do if not.

        It checks hosts, certificates and credentials, for one call of the budget and one token request at most (two
        calls if the service revoked the token).
        """
        try:
            topics = ", ".join(topic.uri_name for topic in self.topics())
        except Exception as error:  # noqa: BLE001 - Airflow would show the message of any other error as it is
            return False, describe_error(error, self.coding_service_conn_id)
        return True, f"Connected; topics: {topics}"

    @cached_property
    def _connection(self) -> Any:
        with _connection_errors(self.coding_service_conn_id):
            return self.get_connection(self.coding_service_conn_id)

    @cached_property
    def settings(self) -> ServiceSettings:
        """Settings of the connection, which is read once."""
        return ServiceSettings.from_connection(self._connection, self._connection.extra_dejson)

    @cached_property
    def _flow(self) -> CallFlow:
        return CallFlow(self.settings, _state_dir(self._connection.extra_dejson), self._budget_row())

    def _budget_row(self) -> SharedRow | None:
        if (conn_id := self.settings.budget_conn_id) is None:
            return None
        with _connection_errors(conn_id, budget=True):
            connection = self.get_connection(conn_id)
        return SharedRow.from_connection(connection, connection.extra_dejson, self.settings.account)

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        return tls.make_context(self.settings)

    @cached_property
    def _api(self) -> requests.Session:
        session = self.get_conn()
        session.auth = transfer.NoAuth()
        session.mount("http://", BoundedAdapter())
        session.mount("https://", tls.TrustedAdapter(self._tls_context))
        return session

    @cached_property
    def _storage(self) -> requests.Session:
        session = self.get_conn()
        session.headers.clear()
        session.auth = transfer.NoAuth()
        session.mount("http://", transfer.BlockAdapter())
        session.mount("https://", TrustedBlockAdapter(self._tls_context))
        return session

    def _configure_session_from_extra(
        self, session: requests.Session, connection: Any, extra_options: dict[str, Any]
    ) -> requests.Session:
        """Configure the session as HttpHook does, but do not turn our own extra fields into request headers."""
        headers = requests.structures.CaseInsensitiveDict(session.headers)
        session = super()._configure_session_from_extra(session, connection, extra_options)
        session.headers, session.proxies = headers, dict(self.settings.proxies)
        session.verify, session.cert, session.trust_env = True, None, self.settings.trust_env  # see TrustedAdapter
        return session

    def _links(self, topic: str, operation_id: str) -> dict[str, str]:
        """Return the links of a complete operation. If it offers none yet, ask again after growing pauses."""
        pauses = iter(LINK_PAUSES_S)
        while (operation := self._complete_operation(topic, operation_id)).lacks_output:
            if (pause := next(pauses, None)) is None:
                raise errors.OutputNotReadyError(f"operation {operation_id!r} is complete, but offers no output")
            self.log.warning("Operation %s offers no output yet; asking again in %.0f s", operation_id, pause)
            self.clock.sleep(pause)
        urls = {"output": operation.output_url, "metadata": operation.metadata_url}
        links = {name: url for name, url in urls.items() if url}
        for name, url in links.items():
            self.settings.check_link(url, f"the link to the {name} file")
        return links

    def _complete_operation(self, topic: str, operation_id: str) -> Operation:
        operation = self.operation(topic, operation_id)
        text = f"operation {operation_id!r} is '{operation.status}'"
        if not operation.status.is_terminal:  # an answer that lags behind must not cost the output
            raise errors.ServiceUnavailableError(f"{text}: it has no output yet", retry_after=UNFINISHED_WAIT_S)
        if not operation.status.is_successful:
            raise errors.OperationFailedError(f"{text}: it has no output")
        return operation

    def _call(self, call: Call[T]) -> T:
        steps = self._flow.steps(call)
        try:
            step = next(steps)
            while True:
                try:
                    result = self._perform(step)
                except errors.CodingServiceError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _perform(self, step: Step) -> Any:
        match step:
            case Wait(seconds):
                return time.sleep(seconds)
            case RunBlocking(function):
                return function()
            case Send():
                return self._send(step)

    def _send(self, step: Send) -> Answer:
        mask_secret(_register_headers(step, self.settings))
        seconds = self.settings.timeout
        timeout: Any = Timeout(total=seconds)  # its type is missing in the stubs of requests
        end = time.monotonic() + seconds
        try:
            with (
                self._api.request(
                    step.method,
                    step.url,
                    headers={**step.headers, **PLAIN_BODY},
                    data=step.body,
                    timeout=timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response,
                watch_body(response, end - time.monotonic()),
            ):
                body = AnswerBody(response.status_code, response.headers)
                for block in read_blocks(response, ANSWER_BLOCK_BYTES):
                    if not body.add(block):
                        break
                return _answer(response.status_code, response.headers, body.finish())
        except BodyError as error:
            raise _unreadable_error(step, error) from None
        except (requests.RequestException, HTTPError, TimeoutError) as error:
            raise _unavailable_error(step, error) from None


class CodingServiceAsyncHook(HttpAsyncHook):
    """Calls the service without blocking the event loop of a trigger; configured as :class:`CodingServiceHook`."""

    conn_name_attr = "coding_service_conn_id"
    default_conn_name = CONN_ID
    conn_type = "coding_service"
    hook_name = "Occupation Coding Service"

    def __init__(self, coding_service_conn_id: str = CONN_ID) -> None:
        super().__init__(http_conn_id=coding_service_conn_id)
        self.coding_service_conn_id = coding_service_conn_id
        self._flow: CallFlow | None = None

    async def operation(self, topic: str, operation_id: str) -> Operation:
        """Return the state of an operation, with fresh links if it is complete."""
        return await self._call(protocol.get_operation(topic, operation_id))

    async def settings(self) -> ServiceSettings:
        """Return the settings of the connection, which is read once."""
        await self.config()
        assert self._flow is not None
        return self._flow.settings

    async def paused_seconds(self, since: float) -> float:
        """Return for how long no calls were allowed from `since` (seconds since the epoch) until now."""
        await self.config()
        assert self._flow is not None
        return await _run_in_thread(partial(self._flow.paused_seconds, since))

    async def config(self) -> SessionConfig:
        """Read the connection once. HttpAsyncHook would turn our own extra fields into request headers."""
        if self._config is None:
            with _connection_errors(self.coding_service_conn_id):
                connection = await self._look_up_connection(self.coding_service_conn_id)
                extra = await get_async_extra_dejson(connection)
            settings = ServiceSettings.from_connection(connection, extra)
            self._flow = CallFlow(settings, _state_dir(extra), await self._budget_row(settings), MAX_POLL_WAIT_S)
            timeout = aiohttp.ClientTimeout(total=settings.timeout)
            context = await _run_in_thread(partial(tls.make_context, settings))
            self._config = SessionConfig(
                base_url=settings.api_url,
                extra_options={"timeout": timeout, "allow_redirects": False, "ssl": context},
            )
        return self._config

    async def _budget_row(self, settings: ServiceSettings) -> SharedRow | None:
        if (conn_id := settings.budget_conn_id) is None:
            return None
        with _connection_errors(conn_id, budget=True):
            connection = await self._look_up_connection(conn_id)
            extra = await get_async_extra_dejson(connection)
        return SharedRow.from_connection(connection, extra, settings.account)

    async def _look_up_connection(self, conn_id: str) -> Any:
        """Return a connection, also in `airflow dags test`, which offers stored ones to synchronous code only."""
        try:
            return await get_async_connection(conn_id=conn_id, hook=self)
        except AirflowNotFoundException:
            from airflow.sdk.execution_time import task_runner  # only here, because parsing of DAGs does not need it

            comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
            if comms is None or hasattr(comms, "asend"):
                raise
            return await _run_in_thread(partial(self.get_connection, conn_id))

    async def _call(self, call: Call[T]) -> T:
        config = await self.config()
        assert self._flow is not None
        steps = self._flow.steps(call)
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                step = next(steps)
                while True:
                    try:
                        result = await self._perform(step, session, config.extra_options or {})
                    except errors.CodingServiceError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(result)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def _perform(self, step: Step, session: aiohttp.ClientSession, options: dict[str, Any]) -> Any:
        match step:
            case Wait(seconds):
                return await asyncio.sleep(seconds)
            case RunBlocking(function):
                # if the call is cancelled, the thread still finishes: at worst, a reserved moment is not used
                return await _run_in_thread(function)
            case Send():
                return await self._send(session, step, options)

    async def _send(self, session: aiohttp.ClientSession, step: Send, options: dict[str, Any]) -> Answer:
        settings = await self.settings()
        await amask_secret(_register_headers(step, settings))
        proxy = _proxy(step.url, settings)
        try:
            headers = {**step.headers, **PLAIN_BODY}
            async with session.request(
                step.method, step.url, headers=headers, data=step.body, proxy=proxy, **options
            ) as response:
                body = AnswerBody(response.status, response.headers)
                async for block in response.content.iter_chunked(ANSWER_BLOCK_BYTES):
                    if not body.add(block):
                        break
                return _answer(response.status, response.headers, body.finish())
        except BodyError as error:
            raise _unreadable_error(step, error) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            if refusal := tls.find_certificate_error(error):
                raise await _run_in_thread(partial(tls.make_certificate_error, step.url, refusal)) from None
            raise _unavailable_error(step, error) from None


async def _run_in_thread(function: Callable[[], T]) -> T:
    """Run a function that can block. The threads are our own, because a lock that another process holds would
    otherwise occupy those that all triggers share, for example to resolve host names."""
    return await asyncio.get_running_loop().run_in_executor(BLOCKING_THREADS, function)


def _state_dir(extra: Mapping[str, Any]) -> Path:
    """Return the folder of token and call budget: the extra `state_dir`, or a folder in Airflow's home."""
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Path(extra.get("state_dir") or f"{home}/coding_service").expanduser()


def _check_input_fields(model: Model) -> Model:
    """Return the model if it accepts the lines that we send (docs/service-contract.md 2.8)."""
    if other_fields := sorted(set(model.input_format) - INPUT_FIELDS):
        raise errors.RequestRefusedError(
            f"model {model.model_id!r} needs the fields {other_fields}, which are not sent: choose another model"
        )
    return model


@contextmanager
def _connection_errors(conn_id: str, *, budget: bool = False) -> Iterator[None]:
    """Translate the errors of Airflow's look-up of a connection. Their text could contain part of the connection.

    :raises SettingsError: there is no such connection
    :raises LocalFaultError: Airflow, or the place where it keeps secrets, did not return it
    """
    name, details = f"Airflow connection {conn_id!r}", "host, login, password and the extra `auth_host`"
    if budget:
        name, details = f"{name}, which the extra `budget_conn_id` names", "the type postgres"
    try:
        yield
    except AirflowNotFoundException:
        raise errors.SettingsError(
            f"there is no {name}: create it under Admin > Connections, or as the environment variable"
            f" AIRFLOW_CONN_{conn_id.upper()}, with {details}"
        ) from None
    except Exception as error:  # noqa: BLE001 - any error of any secrets backend
        raise errors.LocalFaultError(
            f"{name} could not be read ({type(error).__name__}): check that it can be opened under Admin >"
            " Connections, and that Airflow's secrets backend works"
        ) from None


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


def _register_headers(step: Send, settings: ServiceSettings) -> Any:
    """Return what an answer can repeat of our headers, in all encodings. Our own messages leave it out from now on.

    Airflow's masker has to be told in each process, also after a restart of the triggerer.
    """
    authorization = step.headers["Authorization"]
    return register_secrets(*settings.secrets, authorization, authorization.rpartition(" ")[2])


def _mask_links(*values: str | None) -> None:
    """Let Airflow's masker and our own messages leave out the secrets of links, and values that belong to a grant.

    Only tasks need this: the triggerer uses no link, and a masker that runs for months must not grow with each.
    """
    secrets = [secret for value in values if value for secret in (find_link_secrets(value) or [value])]
    mask_secret(cast("Any", register_secrets(*secrets)))


def _unavailable_error(step: Send, error: Exception) -> errors.ServiceUnavailableError:
    return errors.ServiceUnavailableError(
        f"the call failed without an answer ({type(error).__name__}): check that the service is running and that the"
        f" host of the connection is correct ({step.method} {step.url})"
    )


def _unreadable_error(step: Send, error: BodyError) -> errors.ServiceUnavailableError:
    return errors.ServiceUnavailableError(
        f"the answer is {error}: another machine answered, or the service is disturbed ({step.method} {step.url})"
    )


def _proxy(url: str, settings: ServiceSettings) -> str | None:
    """Return the proxy for a URL: the connection's, or else the environment's, as requests reads them.

    aiohttp can read the environment itself, but then it also reads .netrc, which conflicts with our `Authorization`.
    """
    proxies = settings.proxies
    if not proxies and settings.trust_env:
        proxies = requests.utils.get_environ_proxies(url)
    return requests.utils.select_proxy(url, proxies)
