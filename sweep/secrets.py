"""Keeps passwords out of what is written and shown."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """The text with every password in it, as in scheme://user:password@host or ?password=..., replaced by ***."""
    text = re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text)
    return re.sub(r"(password=)[^&\s'\"]+", r"\1***", text)
