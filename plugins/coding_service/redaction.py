"""Removes secrets from text: those that this process uses, and everything that has the form of one.

Every error message, every text of the service or of storage, and every log record of the HTTP libraries passes
through :func:`redact`. Gateways repeat headers, storage repeats what was signed, and both can encode it.
"""

from __future__ import annotations

import html
import json
import logging
import re
import traceback
from threading import Lock
from urllib.parse import parse_qsl, quote, quote_plus, unquote

#: Maximum length of a message.
MAX_MESSAGE_LENGTH = 4000
#: Maximum length of words of the service in a message.
MAX_FOREIGN_LENGTH = 200
#: Maximum length of a traceback.
MAX_TRACEBACK_LINES = 100
#: What is read of a longer text.
MAX_READ_LENGTH = 8_000
#: A shorter value is no secret: removing it would remove ordinary words. Airflow's masker has the same limit.
MIN_SECRET_LENGTH = 5
#: Number of the secrets of this process that are remembered: the newest, each in several encodings.
MAX_SECRETS = 2000

MASK = "***"
WITHHELD = "(text left out, because it can contain a secret)"

# ---- the form of a secret ----------------------------------------------------------------------------------------

#: Names of parameters, headers, members and elements whose value is a secret; also as part of a longer name.
_NAMES = (
    r"(?:signature|credential|token|secret|passw(?:or)?d|passphrase|pwd|authori[sz]ation|access[_-]?key|api[_-]?key"
    r"|private[_-]?key|string[_-]?to[_-]?sign|canonical[_-]?request|cookie|x-amz-|jwt|bearer|sas)[\w-]{0,40}"
)
#: Headers, whose value can contain spaces and needs no quotes.
_HEADERS = r"(?:cookie|x-amz-[\w-]{1,40}|x-[\w-]{0,40}(?:token|key|secret))"
#: Names that are ordinary words elsewhere, so that only `name=value` counts.
_SHORT_NAMES = r"(?<![a-z0-9])(?:sig|se|sv|code|key|auth|pass|user)"
_EQUALS = r"\s*(?:=|%(?:25)*3d|&\#0*61;|&\#x0*3d;|&equals;|\\{1,8}u003d)\s*"
_COLON = r"\s*(?::|%(?:25)*3a|&\#0*58;|&\#x0*3a;|&colon;|\\{1,8}u003a)\s*"
_CLOSING_QUOTE = r"""(?:\\{0,8}["']|%(?:25)*2[27]|&quot;|&\#0*3[49];|\\{1,8}u002[27])"""
_ELEMENT_END = r"(?:>|&gt;|%(?:25)*3e|\\{1,8}u003e)"
_QUOTED = r"""(?P<quote>\\{0,8}["']).*?(?:(?P=quote)|$)"""
_QUOTED_MASK = rf"\1\g<quote>{MASK}\g<quote>"
_WORD = r"""[^\s"'<>]+"""

_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in [
        # user information of an address: with a scheme, without one, and with a slash in the password
        (r"""(?<![/\\])([/\\]{2,})[^\s"'<>/\\?#]*@""", rf"\1{MASK}@"),
        (r"""(?<![/\\])([/\\]{2,})[^\s"'<>@:/\\]*:[^\s"'<>@]*@""", rf"\1{MASK}@"),
        (r"""(?<![\w.+%~/\\*-])[\w.+%~-]+:[^\s"'<>@/]+@(?=[\w\[])""", f"{MASK}@"),
        # query, fragment and parameters of an address, and the query of an address without a host
        (r"""(?<!file:)(?<![/\\])([/\\]{2,}[^\s?#;'"<>]{1,2000}[?#;])[^\s'"<>]+""", rf"\1{MASK}"),
        (r"""(\?)[^\s'"<>?=]{1,60}=[^\s'"<>]*""", rf"\1{MASK}"),
        (r"""(%(?:25)*3f)[^\s'"<>]+""", rf"\1{MASK}"),
        # elements, headers, members, parameters
        (rf"({_NAMES}[^<>&]{{0,40}}{_ELEMENT_END})(?:(?!<|&lt;|%(?:25)*3c|\\{{1,8}}u003c).)*", rf"\1{MASK}"),
        (rf"(authori[sz]ation{_CLOSING_QUOTE}?(?:{_COLON}|{_EQUALS}))(?:{_QUOTED}|[^\"'<>]+)", _QUOTED_MASK),
        (rf"({_HEADERS}{_CLOSING_QUOTE}?{_COLON})(?:{_QUOTED}|[^\"'<>]+)", _QUOTED_MASK),
        (rf"({_NAMES}{_CLOSING_QUOTE}?{_EQUALS})(?:{_QUOTED}|{_WORD})", _QUOTED_MASK),
        (rf"({_SHORT_NAMES}{_EQUALS})(?:{_QUOTED}|{_WORD})", _QUOTED_MASK),
        (rf"({_NAMES}{_CLOSING_QUOTE}{_COLON})(?:{_QUOTED}|{_WORD})", _QUOTED_MASK),
        (rf"({_NAMES}{_COLON})(?:{_QUOTED}|[^\s\"'<>\d]*\d{_WORD}|[^\s\"'<>]*\d|[^\s\"'<>]{{20,}})", _QUOTED_MASK),
        # values that are secrets by their own form
        (r"\b((?:bearer|basic)\s+)[\w+/=.~-]{8,}", rf"\1{MASK}"),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}", MASK),
        (r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?", MASK),
    ]
]

_LINK_SECRET_NAME = re.compile(r"signature|token", re.IGNORECASE)
_TERMINAL_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?|\x9b[0-?]*[ -/]*[@-~]"
)
_LINE_BREAK = re.compile(r"[ \t]*[\r\n\v\f\x85\u2028\u2029]+[ \t]*")
_JSON_ESCAPE = re.compile(r"\\{1,8}u([0-9a-f]{4})", re.IGNORECASE)


def redact(text: str, max_length: int = MAX_MESSAGE_LENGTH) -> str:
    """Return `text` on one line, without control characters, shortened, and without anything that can be a secret.

    The path of an address remains. What cannot be told apart from a secret is left out with it.
    """
    if len(text) > MAX_READ_LENGTH:  # the end of the rest can be the start of a secret, so that it goes, too
        text = f"{text[:MAX_READ_LENGTH].rpartition(' ')[0]} ..."
    text = "".join(map(_visible, _TERMINAL_SEQUENCE.sub("", text)))
    if _LINE_BREAK.search(text):
        joined = _LINE_BREAK.sub("", text)  # a secret can be split over lines
        text = joined if _replace(joined) != joined else _LINE_BREAK.sub(" ", text)
    text = " ".join(MASK if _hides_known_secret(word) else word for word in text.split())
    text = " ".join(_replace_encoded_word(word) for word in _replace(text).split(" "))
    decoded = _decode(text)
    if (decoded != text and _replace(decoded) != decoded) or _contains_secret("".join(decoded.split())):
        return WITHHELD
    return text if len(text) <= max_length else f"{text[: max_length - 4]} ..."


def redact_traceback(error: BaseException) -> str:
    """Return the end of a traceback, line by line as :func:`redact` returns it."""
    lines = "".join(traceback.format_exception(error)).splitlines()[-MAX_TRACEBACK_LINES:]
    return "\n".join(line[: len(line) - len(line.lstrip())] + redact(line) for line in lines)


def redact_foreign(text: str) -> str:
    """Return words of the service or of storage as they can be part of a message."""
    return redact(text, MAX_FOREIGN_LENGTH)


def _visible(character: str) -> str:
    """Return a character; a space for white space of any kind; nothing for one that cannot be seen."""
    if character.isprintable() or _LINE_BREAK.match(character):
        return character
    return " " if character.isspace() else ""


def _replace(text: str) -> str:
    """Replace the secrets of this process, and what has the form of a secret, as far as nothing hides them."""
    text = _replace_known(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _hides_known_secret(word: str) -> bool:
    decoded = _decode(word)
    return decoded != word and _contains_secret(decoded)


def _replace_encoded_word(word: str) -> str:
    decoded = _decode(word)
    return MASK if decoded != word and _replace(decoded) != decoded else word


def _decode(text: str) -> str:
    """Undo percent encoding, HTML entities and escapes of JSON, also if they were applied several times."""
    for _ in range(5):
        decoded = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
        decoded = unquote(html.unescape(decoded))
        if decoded == text:
            break
        text = decoded
    return text


# ---- the secrets of this process ---------------------------------------------------------------------------------

#: Each in lower case, because hexadecimal signatures can be repeated in upper case. The newest is the last.
_known_secrets: dict[str, None] = {}
_lock = Lock()


def register_secrets(*values: str) -> list[str]:
    """Let :func:`redact` remove these values, and return them in all encodings, for Airflow's masker."""
    forms = sorted({form for value in values if len(value) >= MIN_SECRET_LENGTH for form in _encode(value)})
    with _lock:
        for form in forms:
            _known_secrets.pop(form.lower(), None)
            _known_secrets[form.lower()] = None
        while len(_known_secrets) > MAX_SECRETS:
            _known_secrets.pop(next(iter(_known_secrets)))
    return forms


def find_link_secrets(url: str) -> list[str]:
    """Return the values in the query of a presigned URL without which it gives no access.

    They are few and short, because Airflow's masker compiles all secrets of a task again with each new one.
    """
    query = parse_qsl(url.partition("?")[2])
    return [value for name, value in query if len(value) >= 16 and _LINK_SECRET_NAME.search(name)]


def _encode(secret: str) -> set[str]:
    encoded = quote(secret, safe="")
    return {
        secret, encoded, quote(encoded, safe=""), quote_plus(secret), html.escape(secret), json.dumps(secret)[1:-1],
    }  # fmt: skip


def _list_known() -> list[str]:
    with _lock:
        return sorted(_known_secrets, key=len, reverse=True)


def _replace_known(text: str) -> str:
    lower_text = text.lower()
    for secret in _list_known():
        if secret in lower_text:
            text = re.sub(re.escape(secret), MASK, text, flags=re.IGNORECASE)
    return text


def _contains_secret(text: str) -> bool:
    lower_text = text.lower()
    return any(secret in lower_text for secret in _list_known())


# ---- log records of libraries ------------------------------------------------------------------------------------

#: These libraries log addresses and headers of what they send, at any level.
HTTP_LOGGERS = (
    "urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response", "urllib3.util.retry",
    "urllib3.util.ssl_", "requests", "aiohttp.client", "aiohttp.internal", "charset_normalizer",
)  # fmt: skip
#: These also log whole bodies at DEBUG, and with them people's texts.
BODY_LOGGERS = ("aiobotocore", "botocore", "boto3", "fsspec", "s3fs", "s3transfer")


class RedactingFilter(logging.Filter):
    """Redacts log records. Their exceptions are left out, because their texts contain addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


def redact_library_logs() -> None:
    """Keep secrets out of the log records of libraries, whatever level the deployment sets."""
    for name in HTTP_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, RedactingFilter) for one in logger.filters):
            logger.addFilter(RedactingFilter())
    for name in BODY_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
