"""The sentence that the Test button of a connection shows for an error: what is wrong, and what to do."""

from __future__ import annotations

from coding_service import errors

OTHER_SERVER = (
    "Wrong host. A server answered that is not the coding service: check API URL and Token URL, and whether a proxy"
    " or a log-in page stands between."
)
#: What each class of errors means for somebody who enters a connection.
SENTENCES: dict[type[errors.CodingServiceError], str] = {
    errors.AuthorizationError: (
        "Wrong credentials. Enter client id and client secret again, without spaces around them, and check that API"
        " URL and Token URL are those of the tier (partner or public) that the credentials are for."
    ),
    errors.AccessDeniedError: (
        "Access is denied at the moment. Wait an hour, because too many token requests of your organisation have this"
        " effect; if it stays, ask the operator of the service whether the client id is active."
    ),
    errors.CertificateError: (
        "The certificate of the server is not trusted. Check the host; if a proxy of your organisation inspects"
        " traffic, enter the path of its certificate authority under Verify certificates."
    ),
    errors.TooManyRequestsError: (
        "The service limits calls at the moment. Test again in a minute; if it happens often, lower Calls per second."
    ),
    errors.QuotaExceededError: (
        "The calls of the day are used up. Wait, or ask the operator of the service for a higher quota; Calls per day"
        " should not be above what was agreed."
    ),
    errors.BudgetError: (
        "The database of the call budget does not answer. Test the connection that is entered as Connection of the"
        " call budget."
    ),
    errors.NotFoundError: OTHER_SERVER,
    errors.ProtocolError: OTHER_SERVER,
    errors.RequestRefusedError: OTHER_SERVER,
}
NO_ANSWER = (
    "Wrong host, or no way to it. Check API URL, Token URL and port, and that firewall and proxy of this machine let"
    " Airflow reach them."
)
DISTURBED = "The service answers, but is disturbed. Test again in a few minutes; the connection may be right."
UNKNOWN = "Test again; if it fails again, look for this error in the log of the API server or worker."


def describe_error(error: Exception, conn_id: str) -> str:
    """Return what is wrong with a connection and what to do, with the message of the error where it is ours.

    :param conn_id: of the tested connection. Airflow makes one up for each test, which would tell nobody anything
    """
    if not isinstance(error, errors.CodingServiceError):  # its message can contain a secret
        return f"The test failed ({type(error).__name__}). {UNKNOWN}"
    text = str(error).replace(f"Airflow connection {conn_id!r}", "this connection")
    text = text.replace(f"connection {conn_id!r}", "this connection")
    sentence = _find_sentence(error)
    return f"{sentence} Details: {text}" if sentence else text


def _find_sentence(error: errors.CodingServiceError) -> str | None:
    """Return the sentence of an error; None if its own message says what to do."""
    if isinstance(error, errors.ServiceUnavailableError):
        return DISTURBED if error.status_code else NO_ANSWER
    return next((text for kind, text in SENTENCES.items() if isinstance(error, kind)), None)
