"""Text and keys as a message can hold them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def shorten(text: str, most: int = 200) -> str:
    """The text as a message can hold it: printable, and only its start where it is long."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def nearest(key: str, valid: Sequence[str]) -> str:
    """Returns ' (nearest valid key: ...)' for a misspelt key, or '' when nothing is near."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        close = [v for v in valid if v.rsplit(".", 1)[-1] == leaf][:1]
    return f" (nearest valid key: {close[0]})" if close else ""
