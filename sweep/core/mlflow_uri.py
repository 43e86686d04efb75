"""The MLflow store that a setting names."""

from __future__ import annotations

import re
from pathlib import Path

from sweep.core.redaction import redact


def resolve_uri(uri: str | None, output: Path) -> str:
    """The tracking URI to use; None is the SQLite file mlflow.db in the output folder. Relative paths become absolute.

    Raises:
        ValueError: A folder store (MLflow no longer takes them), a database in memory, or no URI at all.
    """
    if not uri:
        return f"sqlite:///{(output.resolve() / 'mlflow.db').as_posix()}"
    if uri.startswith("sqlite"):
        scheme, separator, path = uri.partition(":///")
        if not separator or not path or ":memory:" in path:
            raise ValueError(
                f"MLflow URI {uri!r}: a database in memory is lost at the end; name a file, sqlite:///FILE.db"
            )
        return f"{scheme}:///{Path(path).expanduser().resolve().as_posix()}"
    if re.match(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://", uri) or re.match(r"databricks(://|$)", uri):
        return uri
    if not uri.startswith("file:") and Path(uri).suffix in {".db", ".sqlite", ".sqlite3"}:
        return f"sqlite:///{Path(uri).expanduser().resolve().as_posix()}"
    raise ValueError(
        f"MLflow URI {redact(uri)!r}: must be http(s)://HOST:PORT, sqlite:///FILE.db or a database URL; "
        "MLflow no longer stores runs in a plain folder"
    )
