"""The hooks: an Airflow connection in, typed models out. One flow of steps, sent synchronously or asynchronously."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.http.hooks.http import HttpAsyncHook, HttpHook, SessionConfig
from airflow.sdk.exceptions import AirflowNotFoundException

from coding_service import protocol, transfer
from coding_service.errors import (
    CodingServiceError,
    NotFoundError,
    OperationFailedError,
    OutputExpiredError,
    QuotaExceededError,
    RequestRefusedError,
    ServiceUnavailableError,
    SettingsError,
    TooManyRequestsError,
)
from coding_service.limiter import CallBudget
from coding_service.models import Model, Operation, Topic, UploadGrant
from coding_service.protocol import Answer, Call
from coding_service.settings import ServiceSettings
from coding_service.shared_file import SharedFile
from coding_service.shared_row import SharedRow
from coding_service.storage import StoragePath
from coding_service.tokens import TokenSlot, TokenStore

T = TypeVar("T")

CONN_ID = "coding_service_default"
#: Seconds for which nobody calls after a "Too Many Requests" without Retry-After.
SLOW_DOWN = 5.0
#: Seconds between looks at a token that another process is fetching, and how long to look.
TOKEN_LOOK, TOKEN_PATIENCE = 0.1, 120.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wait:
    """A step: do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """A step: send this request and hand back the answer."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: str | None = None


@dataclass(frozen=True)
class Do:
    """A step: call this function, which may wait for others or for a database, and hand back what it returns."""

    function: Callable[[], Any]


Step = Wait | Send | Do
Flow = Generator[Step, Any, T]


class Caller:
    """The steps of a call: token, budget, request, second token if the first is refused. It does no HTTP itself.

    :param settings: of the service
    :param state_dir: where token and call budget lie, shared by the processes of this machine
    :param row: where the budget lies instead, shared by the processes of several machines
    """

    def __init__(self, settings: ServiceSettings, state_dir: Path, row: SharedRow | None = None) -> None:
        self.settings = settings
        account = state_dir / settings.account
        self._tokens = TokenStore(account.with_suffix(".token"), settings.client_id, settings.client_secret)
        place = row or SharedFile(account.with_suffix(".calls"))
        self._budget = CallBudget(place, settings.requests_per_second, settings.requests_per_day)

    def steps(self, call: Call[T]) -> Flow[T]:
        """Yield the steps of `call` one by one and return what it reads."""
        token = yield from self._token()
        answer = yield from self._send(call, token)
        if answer.is_explicit_deny:  # the token may have expired or been withdrawn: one new one (contract 4)
            token = yield from self._token(refused=token)
            answer = yield from self._send(call, token)
        try:
            return protocol.read(call, answer)
        except TooManyRequestsError as error:
            yield Do(partial(self._budget.slow_down, error.retry_after or SLOW_DOWN))
            raise
        except QuotaExceededError as error:
            yield Do(partial(self._budget.stop, error.retry_after or protocol.QUOTA_WAIT))
            raise

    def _send(self, call: Call[T], token: str) -> Flow[Answer]:
        if seconds := (yield Do(self._budget.reserve)):
            yield Wait(seconds)
            yield Do(self._budget.confirm)
        headers = protocol.api_headers(token, self.settings.authorization_prefix)
        return (yield Send(call.method, self.settings.api_url + call.path, headers))

    def _token(self, refused: str | None = None) -> Flow[str]:
        patience = TOKEN_PATIENCE
        while patience > 0:
            with self._tokens.slot() as slot:
                if slot is not None:
                    return slot.get(refused) or (yield from self._fetch_token(slot))
            yield Wait(TOKEN_LOOK)
            patience -= TOKEN_LOOK
        raise ServiceUnavailableError(f"another process has been fetching a token for {TOKEN_PATIENCE:.0f} s")

    def _fetch_token(self, slot: TokenSlot) -> Flow[str]:
        settings = self.settings
        headers = protocol.token_headers(settings.client_id, settings.client_secret)
        answer = yield Send("POST", settings.auth_url + protocol.TOKEN_PATH, headers, protocol.TOKEN_BODY)
        token, seconds = protocol.read_token(answer)
        slot.put(token, seconds)
        return token


def _state_dir(extra: dict[str, Any]) -> Path:
    """Where token and budget lie: extra `state_dir`, else a folder beside Airflow's own files."""
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Path(extra.get("state_dir") or f"{home}/coding_service").expanduser()


class CodingServiceHook(HttpHook):
    """Talks to the WoAG Occupation Coding Service.

    :param coding_service_conn_id: an Airflow connection with the base URL of the API as host, client id as login,
        client secret as password, and in its extra `auth_host` (base URL of the token endpoint) and, if wanted,
        `requests_per_second`, `requests_per_day`, `poll_interval` (s), `authorization_prefix`, `allow_http`,
        `state_dir`, `budget_conn_id` and what Airflow's HttpHook takes (`timeout`, `verify`, `proxies`, ...)
    :raises SettingsError: the connection lacks a field or has a wrong value
    """

    conn_name_attr = "coding_service_conn_id"
    default_conn_name = CONN_ID
    conn_type = "coding_service"
    hook_name = "Occupation Coding Service"

    def __init__(self, coding_service_conn_id: str = CONN_ID) -> None:
        super().__init__(http_conn_id=coding_service_conn_id)
        self.coding_service_conn_id = coding_service_conn_id

    # ---- what the service offers -------------------------------------------------------------------------------

    def topics(self) -> tuple[Topic, ...]:
        """All topics of the service."""
        return self._call(protocol.list_topics())

    def models(self, topic: str) -> tuple[Model, ...]:
        """All models of `topic`."""
        return self._call(protocol.list_models(topic))

    def latest_model(self, topic: str) -> Model:
        """The latest model of `topic`."""
        return self._call(protocol.latest_model(topic))

    def pin_model(self, topic: str, model: str) -> Model:
        """The model of `topic` that `model` means: a GUID, or `latest`.

        :raises NotFoundError: no such topic, or the topic has no such model; the message lists what there is
        :raises RequestRefusedError: the model wants other fields than are sent
        """
        topics = sorted(known.uri_name for known in self.topics())
        if topic not in topics:
            raise NotFoundError(f"the service has no topic {topic!r}; it has {topics}")
        if model == "latest":
            return _fitting(self.latest_model(topic))
        models = self.models(topic)
        for known in models:
            if known.model_id == model:
                return _fitting(known)
        offered = [f"{known.model_id} (version {known.version})" for known in models]
        raise NotFoundError(f"topic {topic!r} has no model {model!r}; it has {offered}: name one, or 'latest'")

    def create_operation(self, topic: str, model_id: str) -> UploadGrant:
        """Open a new operation, which is paid for: keep its id before anything else is done."""
        return self._call(protocol.create_operation(topic, model_id))

    def operation(self, topic: str, operation_id: str) -> Operation:
        """The state of an operation, with fresh links when it is complete."""
        return self._call(protocol.get_operation(topic, operation_id))

    def upload(self, grant: UploadGrant, path: Path | StoragePath, sha256: str | None = None) -> int:
        """Send an input file to its place in storage and return its size in bytes.

        :param sha256: of the file, hexadecimal, if it is known
        :raises InputFileError: it cannot be an input, or is another file
        :raises GrantExpiredError: a new operation is needed
        :raises TransferError: ask the status before sending again: the file may have arrived
        """
        self.settings.check_url(grant.url, "the upload URL")
        return transfer.upload(self._storage, grant, path, timeout=self.settings.timeout, sha256=sha256)

    def download(
        self, topic: str, operation_id: str, output: Path | StoragePath, metadata: Path | StoragePath
    ) -> tuple[transfer.Download, transfer.Download | None]:
        """Bring the output file of a complete operation to `output` and its metadata file to `metadata`.

        What came down in an earlier try is resumed. One status call gives both links; a dead link costs another.
        Metadata that is not offered or does not come down is None: it must not lose the output (question 28).

        :raises OutputExpiredError: the operation is complete but its files are gone
        :raises OperationFailedError: the operation is not complete
        """
        links = self._links(topic, operation_id)

        def link(name: str) -> str:
            if name not in links:
                links.update(self._links(topic, operation_id))
            if name not in links:
                raise OutputExpiredError(f"operation {operation_id!r} offers no {name} file any more")
            return links.pop(name)

        timeout = self.settings.timeout
        output_file = transfer.download(self._storage, lambda: link("output"), output, timeout=timeout)
        if "metadata" not in links:
            return output_file, None
        try:
            return output_file, transfer.download(self._storage, lambda: link("metadata"), metadata, timeout=timeout)
        except CodingServiceError as error:
            self.log.warning("The metadata file of operation %r did not come down: %s", operation_id, error)
            return output_file, None

    def test_connection(self) -> tuple[bool, str]:
        """List the topics: checks host, credentials and token endpoint with two calls."""
        try:
            topics = ", ".join(topic.uri_name for topic in self.topics())
        except CodingServiceError as error:
            return False, str(error)
        return True, f"Connected; topics: {topics}"

    # ---- how it is sent ----------------------------------------------------------------------------------------

    @cached_property
    def _connection(self) -> Any:
        try:
            return self.get_connection(self.coding_service_conn_id)
        except AirflowNotFoundException:
            raise _no_connection(self.coding_service_conn_id) from None

    @cached_property
    def settings(self) -> ServiceSettings:
        """Settings read from the connection, once."""
        return ServiceSettings.of(self._connection, self._connection.extra_dejson)

    @cached_property
    def _caller(self) -> Caller:
        return Caller(self.settings, _state_dir(self._connection.extra_dejson), self._budget_row())

    def _budget_row(self) -> SharedRow | None:
        if (conn_id := self.settings.budget_conn_id) is None:
            return None
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException:
            raise _no_budget_connection(conn_id) from None
        return SharedRow.of(connection, connection.extra_dejson, self.settings.account)

    @cached_property
    def _api(self) -> requests.Session:
        session = self.get_conn()
        session.auth = transfer.NoAuth()
        return session

    @cached_property
    def _storage(self) -> requests.Session:
        session = self.get_conn()
        session.headers.clear()
        session.auth = transfer.NoAuth()
        session.mount("http://", transfer.BlockAdapter())
        session.mount("https://", transfer.BlockAdapter())
        return session

    def _configure_session_from_extra(
        self, session: requests.Session, connection: Any, extra_options: dict[str, Any]
    ) -> requests.Session:
        """As HttpHook, but what it does not know in the extra is ours and does not become a request header."""
        headers = requests.structures.CaseInsensitiveDict(session.headers)
        session = super()._configure_session_from_extra(session, connection, extra_options)
        session.headers = headers
        return session

    def _links(self, topic: str, operation_id: str) -> dict[str, str]:
        operation = self.operation(topic, operation_id)
        if not operation.status.is_successful:
            raise OperationFailedError(f"operation {operation_id!r} is {str(operation.status)!r}: it has no output")
        if operation.output_url is None:
            raise OutputExpiredError(
                f"operation {operation_id!r} is complete but offers no output: its files are deleted within 24 hours;"
                " code its texts again"
            )
        links = {"output": operation.output_url, "metadata": operation.metadata_url}
        for name, url in links.items():
            self.settings.check_url(url or operation.output_url, f"the link to the {name} file")
        return {name: url for name, url in links.items() if url}

    def _call(self, call: Call[T]) -> T:
        flow = self._caller.steps(call)
        outcome = None
        try:
            while True:
                outcome = self._take(flow.send(outcome))
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def _take(self, step: Step) -> Any:
        match step:
            case Wait(seconds):
                return time.sleep(seconds)
            case Do(function):
                return function()
            case Send():
                return self._exchange(step)

    def _exchange(self, step: Send) -> Answer:
        try:
            response = self._api.request(
                step.method,
                step.url,
                headers=step.headers,
                data=step.body,
                timeout=self.settings.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _unreachable(step, error) from None
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, response.content)


class CodingServiceAsyncHook(HttpAsyncHook):
    """The same service for triggers: nothing in it blocks the event loop.

    :param coding_service_conn_id: as for :class:`CodingServiceHook`
    """

    conn_name_attr = "coding_service_conn_id"
    default_conn_name = CONN_ID
    conn_type = "coding_service"
    hook_name = "Occupation Coding Service"

    def __init__(self, coding_service_conn_id: str = CONN_ID) -> None:
        super().__init__(http_conn_id=coding_service_conn_id)
        self.coding_service_conn_id = coding_service_conn_id
        self._caller: Caller | None = None
        self._extra: dict[str, Any] = {}

    async def operation(self, topic: str, operation_id: str) -> Operation:
        """The state of an operation."""
        return await self._call(protocol.get_operation(topic, operation_id))

    async def settings(self) -> ServiceSettings:
        """Settings read from the connection, once."""
        await self.config()
        assert self._caller is not None
        return self._caller.settings

    async def config(self) -> SessionConfig:
        """Read the connection once; in place of HttpAsyncHook's, which makes headers of what it does not know."""
        if self._config is None:
            try:
                connection = await get_async_connection(conn_id=self.coding_service_conn_id, hook=self)
            except AirflowNotFoundException:
                raise _no_connection(self.coding_service_conn_id) from None
            self._extra = extra = await get_async_extra_dejson(connection)
            settings = ServiceSettings.of(connection, extra)
            self._caller = Caller(settings, _state_dir(extra), await self._budget_row(settings))
            self._config = SessionConfig(
                base_url=settings.api_url,
                extra_options={
                    "timeout": aiohttp.ClientTimeout(total=settings.timeout),
                    "allow_redirects": False,
                    **_verification(extra),
                },
            )
        return self._config

    async def _budget_row(self, settings: ServiceSettings) -> SharedRow | None:
        if (conn_id := settings.budget_conn_id) is None:
            return None
        try:
            connection = await get_async_connection(conn_id=conn_id, hook=self)
        except AirflowNotFoundException:
            raise _no_budget_connection(conn_id) from None
        return SharedRow.of(connection, await get_async_extra_dejson(connection), settings.account)

    async def _call(self, call: Call[T]) -> T:
        config = await self.config()
        assert self._caller is not None
        flow = self._caller.steps(call)
        outcome = None
        try:
            async with aiohttp.ClientSession() as session:
                while True:
                    outcome = await self._take(flow.send(outcome), session, config.extra_options or {})
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    async def _take(self, step: Step, session: aiohttp.ClientSession, options: dict[str, Any]) -> Any:
        match step:
            case Wait(seconds):
                return await asyncio.sleep(seconds)
            case Do(function):  # cancelled meanwhile, it ends by itself: at most a reserved moment stays unused
                return await asyncio.to_thread(function)
            case Send():
                return await self._exchange(session, step, options)

    async def _exchange(self, session: aiohttp.ClientSession, step: Send, options: dict[str, Any]) -> Answer:
        try:
            async with session.request(
                step.method,
                step.url,
                headers=step.headers,
                data=step.body,
                proxy=_proxy(step.url, self._extra),
                **options,
            ) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, headers, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(step, error) from None


def _fitting(model: Model) -> Model:
    """The model, if it takes lines as we send them (contract 2.8)."""
    if other := sorted(set(model.input_format) - {"recordId", "occp_text", "tasks_text"}):
        raise RequestRefusedError(
            f"model {model.model_id!r} wants the fields {other}; occp_text and tasks_text are sent: name another"
        )
    return model


def _no_connection(conn_id: str) -> SettingsError:
    return SettingsError(
        f"there is no Airflow connection {conn_id!r}: make one under Admin > Connections, or as environment variable"
        f" AIRFLOW_CONN_{conn_id.upper()}, with host, login, password and the extra `auth_host`"
    )


def _no_budget_connection(conn_id: str) -> SettingsError:
    return SettingsError(
        f"there is no Airflow connection {conn_id!r}, which the extra `budget_conn_id` names: make one of type"
        f" postgres, under Admin > Connections or as environment variable AIRFLOW_CONN_{conn_id.upper()}"
    )


def _unreachable(step: Send, error: Exception) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        f"{step.method} {step.url} did not get through ({type(error).__name__}): is the service up and the host of"
        " the connection right?"
    )


def _verification(extra: dict[str, Any]) -> dict[str, Any]:
    """The connection's `verify` in aiohttp's words."""
    verify = extra.get("verify", extra.get("verify_ssl", True))
    if isinstance(verify, str):
        return {"ssl": ssl.create_default_context(cafile=verify)}
    return {"ssl": False} if verify is False else {}


def _proxy(url: str, extra: dict[str, Any]) -> str | None:
    """The connection's `proxies`, else the environment's, as requests reads both.

    aiohttp could read the environment itself, but then it also reads .netrc, which our `Authorization` excludes.
    """
    proxies = extra.get("proxies", extra.get("proxy"))
    if isinstance(proxies, str):
        return proxies
    if not proxies and extra.get("trust_env", True):
        proxies = requests.utils.get_environ_proxies(url)
    return requests.utils.select_proxy(url, proxies)
