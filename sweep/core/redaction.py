"""Removes passwords and tokens from texts that are written or shown; where a text is ambiguous, more is removed."""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

_SHOWN = "***"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_USERS_ARE_NO_SECRET = {"postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "sqlite", "redis", "ssh"}

# Words that name a secret, alone or within others, as in AWS_SECRET_ACCESS_KEY or X-Amz-Signature
_NAME = (
    r"[\w.-]*(?:password|passwd|pwd|passphrase|token|secret|api[_-]?key|access[_-]?key|private[_-]?key|credential"
    r"|signature)[\w.-]*|-*\bsig"
)
_QUOTED = r'"(?:\\.|[^"\\])*"' + r"|'(?:\\.|[^'\\])*'"
_IN_QUERY = re.compile(rf"([?&](?:{_NAME})=)[^&\s]+", re.IGNORECASE)
_NAMED = re.compile(rf"(?<![?&\w.-])((?:{_NAME})[\"']?\s*[=:]\s*)(?:{_QUOTED}|[^\s*]\S*)", re.IGNORECASE)
_OPTION = re.compile(rf"(--?(?:{_NAME})\s+)(?:{_QUOTED}|[^\s*]\S*)", re.IGNORECASE)
_HEADER = re.compile(rf"(authorization[\"']?\s*[=:]\s*)(?:{_QUOTED}|[^\s*][^\n]*)", re.IGNORECASE)
_SCHEME = re.compile(r"((?:Bearer|Basic) )[A-Za-z0-9+/=._~-]{8,}")


def redact(text: str) -> str:
    """The text with every secret in it replaced by ***.

    Secrets are what stands before the host of a URL (scheme://user:password@host, https://token@host), what a name such
    as password or token is given in a query, a setting, JSON or an option of a command line, and what an Authorization
    header holds. The names of users are shown for databases only: elsewhere they may be tokens.
    """
    text = _URL.sub(lambda found: _without_userinfo(found[0]), text)
    for pattern in (_HEADER, _IN_QUERY, _NAMED, _OPTION, _SCHEME):
        text = pattern.sub(rf"\1{_SHOWN}", text)
    return text


def _without_userinfo(url: str) -> str:
    """The URL without the secret before its host.

    Passwords that are not encoded, as they should be, hold @ and /, so with a colon all up to the last @ is taken for
    one.
    """
    scheme, _, rest = url.partition("://")
    userinfo, at, host = rest.rpartition("@")
    if not at or (":" not in userinfo and "@" not in urlsplit(url).netloc):
        return url
    if scheme.lower().partition("+")[0] not in _USERS_ARE_NO_SECRET:
        return f"{scheme}://{_SHOWN}@{host}"
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}://{user}{colon}{_SHOWN if colon else ''}@{host}"


class RedactingFormatter(logging.Formatter):
    """Formats log records, including tracebacks, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
