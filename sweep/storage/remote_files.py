"""The files of trials on machines without a shared disk, in a bucket or in a folder that all machines see.

A trial is trained in a folder of its machine. The files that the driver or another machine needs are copied to the
storage, under their paths relative to the sweep's folder, and fetched from there. The only module that imports pyarrow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sweep.core.errors import StorageError
from sweep.core.redaction import redact
from sweep.core.retry import Backoff
from trainer.atomic_file import replacing

logger = logging.getLogger(__name__)

T = TypeVar("T")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
_MAX_UNAVAILABLE = 600.0  # seconds that an upload or download waits for the storage
_HOPELESS = re.compile("ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH", re.IGNORECASE)
_OWNER = "owner"  # file beside a trial's files: the token of the worker that may write them


@dataclass(frozen=True)
class Storage:
    """The files below a sweep's folder, as seen from all machines.

    It is sent to the workers in memory, with the driver's credentials, which are never written to disk.

    Attributes:
        uri: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or an absolute path, of this sweep alone.
        root: the sweep's folder on the driver's machine.
        credentials: AWS_* variables of the driver's environment; without any, each machine uses its own role.
    """

    uri: str
    root: Path
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of_sweep(cls, base: str, name: str, root: Path) -> Storage:
        """The storage of one sweep below the setting `storage`, with the credentials of this process."""
        found = {key: value for key in CREDENTIALS if (value := os.environ.get(key))}
        return cls(f"{base.rstrip('/')}/{name}", root, found)

    def check(self) -> None:
        """Writes, reads and deletes a small file; raises StorageError if that fails."""
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        try:
            self._write(probe, b"starsweep")
            if self._read(probe) != b"starsweep":
                raise OSError("gives back something else than was written")
            self.delete(probe)
        except OSError as error:
            raise self._named(error) from None

    def fetch(self, path: Path, into: Path | None = None) -> bool:
        """Copies a file from the storage to `path`, or `into` another path; False if the storage has no such file."""
        into = into or path

        def copy() -> bool:
            filesystem, root = self._open()
            into.parent.mkdir(parents=True, exist_ok=True)
            try:
                with (
                    filesystem.open_input_stream(f"{root}/{self._key(path)}") as source,
                    replacing(into) as temporary,
                    temporary.open("wb") as file,
                ):
                    while block := source.read(1 << 22):
                        file.write(block)
            except FileNotFoundError:
                return False
            return True

        return self._with_retry(copy)

    def push(self, source: Path, path: Path) -> None:
        """Copies a file to `path` in the storage, atomically."""

        def copy() -> None:
            with source.open("rb") as file, self._replacing(path) as stream:
                while block := file.read(1 << 22):
                    stream.write(block)

        self._with_retry(copy)

    def delete(self, path: Path) -> None:
        """Deletes a file, if it exists."""

        def remove() -> None:
            filesystem, root = self._open()
            with contextlib.suppress(FileNotFoundError):
                filesystem.delete_file(f"{root}/{self._key(path)}")

        self._with_retry(remove)

    def take_over(self, folder: Path, token: str) -> None:
        """Gives the holder of a token the right to write a trial's files, and takes it from all others."""
        self._with_retry(lambda: self._write(folder / _OWNER, token.encode()))

    def held_by(self, folder: Path, token: str) -> bool:
        """Whether the holder of the token still has that right."""
        return bool(self._with_retry(lambda: self._read(folder / _OWNER)) == token.encode())

    def _write(self, path: Path, content: bytes) -> None:
        with self._replacing(path) as stream:
            stream.write(content)

    def _read(self, path: Path) -> bytes:
        filesystem, root = self._open()
        with filesystem.open_input_stream(f"{root}/{self._key(path)}") as source:
            return bytes(source.read())

    @contextlib.contextmanager
    def _replacing(self, path: Path) -> Iterator[Any]:
        """A stream that replaces the file when it is closed, as a bucket does by itself."""
        filesystem, root = self._open()
        target = f"{root}/{self._key(path)}"
        if filesystem.type_name != "local":
            with filesystem.open_output_stream(target) as stream:
                yield stream
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(target)) as temporary, filesystem.open_output_stream(str(temporary)) as stream:
            yield stream

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _open(self) -> tuple[Any, str]:
        """The file system, and the sweep's path in it."""
        from pyarrow import fs

        if not self.uri.startswith("s3://"):
            if self.uri.startswith("/"):
                return fs.LocalFileSystem(), self.uri
            filesystem, root = fs.FileSystem.from_uri(self.uri)
            return filesystem, root
        names = {"AWS_ACCESS_KEY_ID": "access_key", "AWS_SECRET_ACCESS_KEY": "secret_key"}
        names |= {"AWS_SESSION_TOKEN": "session_token", "AWS_REGION": "region"}
        options = {names[key]: value for key, value in self.credentials.items() if key in names}
        if endpoint := self.credentials.get("AWS_ENDPOINT_URL"):
            parts = urlsplit(endpoint)
            options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
        return fs.S3FileSystem(
            connect_timeout=10, request_timeout=60, allow_delayed_open=True, **options
        ), self.uri.removeprefix("s3://")

    def _with_retry(self, step: Callable[[], T]) -> T:
        """Retries an operation with back-off while the storage is unavailable; raises StorageError at last."""
        backoff, warned = Backoff(_MAX_UNAVAILABLE), False
        while True:
            try:
                return step()
            except OSError as error:
                hopeless = isinstance(error, (FileNotFoundError, PermissionError)) or _HOPELESS.search(str(error))
                if hopeless or backoff.over:
                    raise self._named(error) from None
                if not warned:
                    logger.warning("%s, waiting for it", self._named(error))
                    warned = True
            backoff.wait()

    def _named(self, error: OSError) -> StorageError:
        return StorageError(f"storage {redact(self.uri)} cannot be used: {redact(str(error)).splitlines()[0][:300]}")
