"""Links lead to the storage of the service, or are refused without being shown."""

import pytest

from coding_service.errors import SettingsError
from coding_service.settings import ServiceSettings

PUBLIC, LOCAL = "https://partner-coder.api.abs.gov.au", "http://127.0.0.1:8070"


def settings(api_url=PUBLIC, **options):
    return ServiceSettings(api_url, api_url, "client1", "secret123", **options)


def check(url, api_url=PUBLIC, **options):
    settings(api_url, **options).check_link(url, "the upload URL")


def refusal(url, api_url=PUBLIC, **options):
    with pytest.raises(SettingsError, match=r"^the upload URL ") as caught:
        check(url, api_url, **options)
    assert "nothing was sent to it" in str(caught.value)
    for secret in ("5ec4e7", "hidden", "pa55word"):
        assert secret not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://bucket.s3.ap-southeast-2.amazonaws.com/hidden?X-Amz-Signature=5ec4e7",
        "HTTPS://BUCKET.S3.AMAZONAWS.COM.:443/hidden",
        f"{PUBLIC}/in",
    ],
)
def test_storage_at_amazon_and_the_host_of_the_api_are_allowed(url):
    check(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://bucket.s3.amazonaws.com/hidden", "is http, but the service is https"),
        ("https://evil.example/hidden?X-Amz-Signature=5ec4e7", "the host 'evil.example', which is not one of"),
        ("https://bucket.s3.amazonaws.com.evil.example/hidden", "'bucket.s3.amazonaws.com.evil.example'"),
        ("https://evilamazonaws.com/hidden", "'evilamazonaws.com'"),
        ("https://amazonaws.com/hidden", "'amazonaws.com'"),
        ("https://evil.example#.s3.amazonaws.com/", "'evil.example'"),
        ("https://evil.example?.s3.amazonaws.com/", "'evil.example'"),
        ("https://xn--80ak6aa92e.com/", "'xn--80ak6aa92e.com'"),
        ("https://8.8.8.8/hidden", "'8.8.8.8'"),
        ("https://169.254.169.254/hidden", "internal network"),
        ("https://10.1.2.3/hidden", "internal network"),
        ("https://192.168.0.1:8443/hidden", "internal network"),
        ("https://100.64.0.1/hidden", "internal network"),
        ("https://0.0.0.0/hidden", "internal network"),
        ("https://224.0.0.1/hidden", "internal network"),
        ("https://127.0.0.1/hidden", "internal network"),
        ("https://127.8.9.1/hidden", "internal network"),
        ("https://localhost/hidden", "internal network"),
        ("https://LOCALHOST./hidden", "internal network"),
        ("https://[::1]/hidden", "internal network"),
        ("https://[::]/hidden", "internal network"),
        ("https://[fe80::1]/hidden", "internal network"),
        ("https://[fd00::1]/hidden", "internal network"),
        ("https://[fd00:ec2::254]/hidden", "internal network"),
        ("https://[::ffff:169.254.169.254]/hidden", "internal network"),
        ("https://[::ffff:a9fe:a9fe]/hidden", "internal network"),
        ("https://[::127.0.0.1]/hidden", "internal network"),
        ("https://[64:ff9b::a9fe:a9fe]/hidden", "internal network"),
        ("https://[2002:7f00:1::]/hidden", "internal network"),
        ("https://2852039166/hidden", "malformed"),
        ("https://0xa9fea9fe/hidden", "malformed"),
        ("https://0251.0376.0251.0376/hidden", "malformed"),
        ("https://169.254.43518/hidden", "malformed"),
        ("https://127.1/hidden", "malformed"),
        ("https://127.0.0.0x1/hidden", "malformed"),
        ("https://user:pa55word@bucket.s3.amazonaws.com/", "user name"),
        ("https://bucket.s3.amazonaws.com@evil.example/hidden", "user name"),
        ("https://@bucket.s3.amazonaws.com/hidden", "user name"),
        ("https://evil.example\\@bucket.s3.amazonaws.com/hidden", "malformed"),
        ("https:\\\\bucket.s3.amazonaws.com\\hidden", "malformed"),
        ("https://evil.example\n.s3.amazonaws.com/hidden", "malformed"),
        (" https://bucket.s3.amazonaws.com/hidden", "malformed"),
        ("https://bucket.s3.amazonaws.com/hidden\r\nHost: x", "malformed"),
        ("https://bucket.s3.amazonaws.com/\x00hidden", "malformed"),
        ("https://bucket.s3.\uff41mazonaws.com/hidden", "malformed"),
        ("https://bucket%2es3.amazonaws.com/hidden", "malformed"),
        ("https://bucket..s3.amazonaws.com/hidden", "malformed"),
        ("https://bucket.s3.amazonaws.com:99999/hidden", "malformed"),
        ("https://bucket.s3.amazonaws.com:port/hidden", "malformed"),
        ("https://[::1/hidden", "malformed"),
        ("https:///hidden", "malformed"),
        ("//bucket.s3.amazonaws.com/hidden", "malformed"),
        ("ftp://bucket.s3.amazonaws.com/hidden", "malformed"),
        ("file:///etc/hidden", "malformed"),
        ("", "malformed"),
    ],
)
def test_any_other_link_is_refused_with_its_host_at_most(url, words):
    assert words in refusal(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/a", "http://localhost:9/a", "http://[::1]/a", "https://localhost/a"]
)
def test_a_service_on_this_machine_can_have_its_storage_here(url):
    check(url, LOCAL)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/a", "http://10.0.0.1/a", "http://0.0.0.0/a", "http://host/a"]
)
def test_a_service_on_this_machine_cannot_name_other_machines(url):
    assert "which is not one of ['*.amazonaws.com', 'localhost']" in refusal(url, LOCAL)


def test_a_service_on_a_private_network_can_have_its_storage_there():
    options = {"storage_hosts": ("10.0.0.6",)}
    check("https://10.0.0.6:9000/in", "https://10.0.0.5", **options)
    refusal("https://10.0.0.7:9000/in", "https://10.0.0.5", **options)
    refusal("https://10.0.0.6:9000/in", PUBLIC, **options)


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("Storage.Example.", ("storage.example",)),
        ("a.example, *.b.example", ("a.example", "*.b.example")),
        (["*.B.example", "10.0.0.6", "[fd00::1]"], ("*.b.example", "10.0.0.6", "fd00::1")),
        ("b\u00fccher.example", ("xn--bcher-kva.example",)),
    ],
)
def test_hosts_of_storage_are_a_list_or_separated_by_commas(value, patterns):
    assert from_extra(value).storage_hosts == patterns


@pytest.mark.parametrize(
    "value",
    ["*", "*.", "*.com", "a.*.example", "*example.com", "https://a.example", "a.example:443", "a.example/x", "a b", 5,
     {"a": 1}, [5], ["a.example", ""], "*.10.0.0.1", "0x7f.1"],
)  # fmt: skip
def test_other_patterns_are_refused_with_an_example(value):
    with pytest.raises(
        SettingsError, match=r"has storage_hosts = .* such as 'storage.example' or '\*.storage.example'"
    ):
        from_extra(value)


def test_hosts_of_the_connection_replace_the_default():
    read = from_extra("*.storage.example")
    read.check_link("https://a.b.storage.example/in", "the upload URL")
    for host in ("storage.example", "bucket.s3.amazonaws.com", "partner-coder.api.abs.gov.au"):
        with pytest.raises(SettingsError, match="add it to `storage_hosts`"):
            read.check_link(f"https://{host}/in", "the upload URL")


@pytest.mark.parametrize(
    "url",
    ["https://user:pa55word@coder.example", "https://coder.example?x=5ec4e7", "https://coder.example#5ec4e7",
     "https://coder.example\\@evil.example", "https://2130706433", "https://coder.example\n"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["host", "auth_host"])
def test_an_address_of_the_service_with_a_user_or_in_an_unusual_form_is_refused(field, url):
    with pytest.raises(SettingsError) as caught:
        from_extra(None, **{field: url})
    assert "5ec4e7" not in str(caught.value)
    assert "pa55word" not in str(caught.value)


class FakeConnection:
    """The fields of an Airflow connection."""

    schema, port, login, password, conn_id = None, None, "client1", "secret123", "my_coding"

    def __init__(self, host):
        self.host = host


def from_extra(storage_hosts, host=PUBLIC, auth_host=PUBLIC):
    return ServiceSettings.from_connection(
        FakeConnection(host), {"auth_host": auth_host, "storage_hosts": storage_hosts}
    )
