"""Removes passwords and tokens from texts that are written or shown."""

from __future__ import annotations

import logging
import re

_IN_ADDRESS = re.compile(r"(://[^:/@\s]*:)\S*@")  # up to the last @: a password may hold one
_NAMED = re.compile(
    r"((?:password|passwd|pwd|token|secret|api_?key|access_?key|signature|sig)=)[^&\s'\"]+", re.IGNORECASE
)
_BEARER = re.compile(r"((?:Bearer|Basic) )[A-Za-z0-9+/=._~-]{8,}")


def redact(text: str) -> str:
    """The text with every password in it, as in scheme://user:password@host or ?token=..., replaced by ***."""
    for pattern, shown in ((_IN_ADDRESS, r"\1***@"), (_NAMED, r"\1***"), (_BEARER, r"\1***")):
        text = pattern.sub(shown, text)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats log records, including tracebacks, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
