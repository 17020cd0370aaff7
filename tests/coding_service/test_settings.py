"""An Airflow connection is read as typed settings, or refused with what to change in it."""

from dataclasses import dataclass

import pytest

from coding_service.errors import SettingsError
from coding_service.settings import HTTP_EXTRAS, OWN_EXTRAS, ServiceSettings

API, AUTH = "https://partner-coder.api.abs.gov.au", "https://partner-coder.auth.abs.gov.au"


@dataclass
class FakeConnection:
    """The fields of an Airflow connection."""

    host: str | None = API
    schema: str | None = None
    port: int | None = None
    login: str | None = "client1"
    password: str | None = "secret123"
    conn_id: str = "my_coding"


def settings(extra=None, **fields):
    return ServiceSettings.from_connection(FakeConnection(**fields), {"auth_host": AUTH, **(extra or {})})


def refusal(extra=None, **fields):
    with pytest.raises(SettingsError) as caught:
        settings(extra, **fields)
    return str(caught.value)


def test_a_connection_needs_hosts_and_credentials_only():
    assert settings() == ServiceSettings(
        api_url=API,
        auth_url=AUTH,
        client_id="client1",
        client_secret="secret123",
        requests_per_second=1.0,
        requests_per_day=10_000,
        poll_interval=10.0,
        timeout=60.0,
        authorization_prefix="",
        allow_http=False,
        budget_conn_id=None,
    )


def test_every_extra_field_of_ours_is_read():
    read = settings(
        {
            "requests_per_second": "0.5",
            "requests_per_day": "500",
            "poll_interval": 3,
            "timeout": 5,
            "authorization_prefix": "Bearer",
            "allow_http": True,
            "budget_conn_id": "budget",
        }
    )
    assert (read.requests_per_second, read.requests_per_day, read.poll_interval) == (0.5, 500, 3.0)
    assert (read.timeout, read.authorization_prefix, read.allow_http) == (5.0, "Bearer", True)
    assert read.budget_conn_id == "budget"


def test_extra_fields_of_the_http_hook_are_accepted():
    assert settings(dict.fromkeys(HTTP_EXTRAS - {"timeout", "trust_env"}, "x")).timeout == 60


@pytest.mark.parametrize(
    ("value", "verify"),
    [
        (True, True), ("true", True), ("True", True), ("TRUE", True), (None, True), ("", True),
        (False, False), ("false", False), ("False", False), ("/etc/ca.pem", "/etc/ca.pem"), ("/etc/ca", "/etc/ca"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["verify", "verify_ssl"])
def test_verification_is_a_boolean_a_text_or_a_path(name, value, verify):
    assert settings({name: value}).verify == verify


@pytest.mark.parametrize(
    ("value", "cert"),
    [
        (None, None), ("", None), ([], None), ("/c.pem", ("/c.pem", None)), (["/c.pem"], ("/c.pem", None)),
        (["/c.pem", "/k.pem"], ("/c.pem", "/k.pem")),
    ],
)  # fmt: skip
def test_a_client_certificate_is_a_path_or_two(value, cert):
    assert settings({"cert": value}).cert == cert


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"verify": 1}, "verify = 1 in its extra; expected true, false or a path"),
        ({"verify": ["/a"]}, "expected true, false or a path"),
        ({"trust_env": "perhaps"}, "trust_env = 'perhaps' in its extra; expected true or false"),
        ({"allow_http": "perhaps"}, "allow_http = 'perhaps' in its extra; expected true or false"),
        ({"cert": ["/a", "/b", "/c"]}, "expected a path, or a list of two"),
        ({"cert": ["/a", None]}, "expected a path, or a list of two"),
        ({"cert": {"file": "/a"}}, "expected a path, or a list of two"),
    ],
)
def test_other_values_of_trust_are_refused_with_what_is_expected(extra, expected):
    assert expected in refusal(extra)


@pytest.mark.parametrize(("value", "is_read"), [("false", False), ("False", False), ("true", True), (None, True)])
def test_whether_the_environment_is_read_can_be_text(value, is_read):
    assert settings({"trust_env": value}).trust_env is is_read


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": API}, API),
        ({"host": API + "/"}, API),
        ({"host": "partner-coder.api.abs.gov.au"}, API),
        ({"host": "partner-coder.api.abs.gov.au", "schema": "https", "port": 8443}, API + ":8443"),
        ({"host": API, "port": 8443}, API + ":8443"),
        ({"host": API, "port": 443}, API),
        ({"host": API, "port": 0}, API),
        ({"host": "http://127.0.0.1:8070", "port": 8070}, "http://127.0.0.1:8070"),
        ({"host": API + "/", "port": 8443}, API + ":8443"),
        ({"host": API + "/base"}, API + "/base"),
        ({"host": API, "schema": "http"}, API),
        ({"host": "127.0.0.1", "schema": "http", "port": 8070}, "http://127.0.0.1:8070"),
        ({"host": "http://[::1]", "port": 8070}, "http://[::1]:8070"),
    ],
)
def test_the_base_url_consists_of_host_schema_and_port(fields, url):
    assert settings(**fields).api_url == url


@pytest.mark.parametrize(
    "host",
    ["http://127.0.0.1:8070", "http://127.8.9.1", "http://localhost:8070", "http://[::1]:8070", "http://LOCALHOST"],
)
def test_plain_http_is_accepted_on_loopback(host):
    assert settings({"auth_host": host}, host=host).api_url == host


@pytest.mark.parametrize(
    "host", ["http://coder.example", "http://10.0.0.5:8070", "http://localhost.example", "http://0.0.0.0:8070"]
)
def test_plain_http_on_another_host_is_refused_for_api_and_token_endpoint(host):
    for text, field in (
        (refusal(host=host), "host of connection 'my_coding'"),
        (refusal({"auth_host": host}), "`auth_host` in the extra of connection 'my_coding'"),
    ):
        assert text.startswith(f"{field} is '{host}'")
        assert "use https" in text
        assert '"allow_http": true' in text


def test_plain_http_on_another_host_is_accepted_with_allow_http():
    host = "http://coder.example"
    assert settings({"allow_http": True, "auth_host": host}, host=host).api_url == host


@pytest.mark.parametrize(
    ("host", "url"),
    [("ftp://coder.example", "ftp://coder.example"), ("https://user@coder.example", "https://***@coder.example")],
)
def test_a_host_that_is_not_a_url_is_refused_with_an_example(host, url):
    text = refusal(host=host)
    assert text.startswith(f"host of connection 'my_coding' is '{url}")
    assert "expected a URL such as 'https://partner-coder.api.abs.gov.au'" in text


@pytest.mark.parametrize("host", [None, ""])
def test_a_missing_host_is_refused_with_an_example(host):
    assert refusal(host=host) == f"connection 'my_coding' has no host: enter the API URL, such as {API!r}"


@pytest.mark.parametrize("value", [None, ""])
def test_every_extra_field_that_is_null_or_empty_is_not_set(value):
    read = settings({**dict.fromkeys(HTTP_EXTRAS | OWN_EXTRAS, value), "auth_host": AUTH})
    assert read == settings()


def test_an_empty_field_does_not_hide_the_other_spelling_of_the_same_setting():
    assert settings({"verify": None, "verify_ssl": "false"}).verify is False
    assert settings({"proxies": "", "proxy": "http://proxy.example"}).proxies["https"] == "http://proxy.example"


@pytest.mark.parametrize("host", ["https://[::1", "https://coder.example:port", "https://coder.example:99999"])
def test_a_malformed_host_is_refused(host):
    assert repr(host) in refusal(host=host)


@pytest.mark.parametrize("auth_host", [None, "", "partner-coder.auth.abs.gov.au"])
def test_a_token_endpoint_that_is_missing_or_not_a_url_is_refused_with_an_example(auth_host):
    text = refusal({"auth_host": auth_host})
    assert text.startswith(f"`auth_host` in the extra of connection 'my_coding' is {auth_host or ''!r}")
    assert "expected a URL such as 'https://partner-coder." in text


@pytest.mark.parametrize("field", ["login", "password"])
@pytest.mark.parametrize("value", [None, ""])
def test_the_error_for_missing_credentials_says_where_to_enter_them(field, value):
    text = refusal(**{field: value})
    assert text == f"connection 'my_coding' has no {field}: use client id as login, client secret as password"


@pytest.mark.parametrize("field", ["requests_per_second", "requests_per_day", "poll_interval", "timeout"])
@pytest.mark.parametrize("value", [0, -1, "many", [], "nan", "inf", float("inf")])
def test_an_invalid_number_is_refused_with_name_and_value(field, value):
    text = refusal({field: value})
    assert f"connection 'my_coding' has {field} = {value!r} in its extra; expected a number" in text


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, (True, {}, True)),
        ({"verify": False, "proxies": {"http": "http://p"}}, (False, {"http": "http://p"}, True)),
        (
            {"verify_ssl": "/ca.pem", "proxy": "http://p"},
            ("/ca.pem", {"http": "http://p", "https": "http://p"}, True),
        ),
        ({"trust_env": False}, (True, {}, False)),
    ],
)
def test_both_hooks_read_verification_and_proxies_from_the_settings(extra, expected):
    read = settings(extra)
    assert (read.verify, read.proxies, read.trust_env) == expected


def test_less_than_one_call_a_day_is_refused():
    assert "requests_per_day = 0.5" in refusal({"requests_per_day": 0.5})


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_connection_the_budget_is_kept_on_this_machine(value):
    assert settings({"budget_conn_id": value}).budget_conn_id is None


@pytest.mark.parametrize("value", [0, True, ["budget"], {}])
def test_a_budget_connection_id_that_is_not_text_is_refused(value):
    text = refusal({"budget_conn_id": value})
    assert f"budget_conn_id = {value!r} in its extra; expected an Airflow connection id" in text


def test_unknown_extra_fields_are_refused_with_a_list_of_fields():
    text = refusal({"authhost": "x", "requests_per_secnd": 2})
    assert text.startswith(
        "connection 'my_coding' has the unknown extra fields ['authhost', 'requests_per_secnd']; known: "
    )
    for field in HTTP_EXTRAS | OWN_EXTRAS:
        assert repr(field) in text


def test_no_repr_and_no_error_contains_the_secret():
    assert "secret123" not in repr(settings())
    for extra, fields in (({"timeout": 0}, {}), ({"x": 1}, {}), ({}, {"host": None}), ({}, {"login": None})):
        assert "secret123" not in refusal(extra, **fields)


@pytest.mark.parametrize(
    "url", ["http://s3.example/a?sig=5ec4e7", "s3.example/a?sig=5ec4e7", "ftp://s3/a?sig=5ec4e7", "//s3/a?sig=5ec4e7"]
)
def test_the_error_for_a_refused_link_does_not_contain_its_query(url):
    with pytest.raises(SettingsError, match="the upload URL is ") as caught:
        settings().check_url(url, "the upload URL")
    assert "5ec4e7" not in str(caught.value)


def test_a_link_with_an_upper_case_scheme_is_accepted():
    settings().check_url("HTTPS://s3.example/a", "the upload URL")


def test_one_account_is_one_host_and_client():
    names = {
        settings().account,
        settings(login="client2").account,
        settings(host="https://public-coder.api.abs.gov.au").account,
    }
    assert len(names) == 3
    assert settings(password="changed").account == settings().account
    assert "client1" not in settings().account
