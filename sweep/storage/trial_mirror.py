"""The copy of a trial's folder in the storage, which only one worker at a time may write."""

from __future__ import annotations

import uuid
from pathlib import Path

from sweep.core.errors import SupersededError
from sweep.storage.remote_files import Storage


class Mirror:
    """The copy in the storage of one trial's folder on this machine.

    Args:
        storage: where the copy is.
        path: the trial's folder as the driver names it.
        folder: the trial's folder on this machine.
    """

    def __init__(self, storage: Storage, path: Path, folder: Path) -> None:
        self._storage, self._path, self._folder = storage, path, folder
        self._token = uuid.uuid4().hex
        self._known: dict[str, tuple[int, int]] = {}

    def fetch(self, names: tuple[str, ...]) -> None:
        """Takes the trial over, and fetches those of its files that exist."""
        self._storage.take_over(self._path, self._token)
        for name in names:
            if self._storage.fetch(self._path / name, self._folder / name):
                self._known[name] = _stamp(self._folder / name)

    def push(self, first: tuple[str, ...], last: str, *, final: bool = False) -> None:
        """Copies changed files: small ones always, the `first` ones only before `last`, or at the end.

        So a checkpoint (`last`) in the storage never refers to weights that are missing there.

        Raises:
            SupersededError: another worker has taken the trial over.
        """
        if not self._storage.held_by(self._path, self._token):
            raise SupersededError(f"{self._path.name}: another worker has taken it over")
        changed = [p.name for p in self._folder.iterdir() if p.is_file() and not p.name.startswith((".", "worker."))]
        changed = [name for name in changed if self._known.get(name) != _stamp(self._folder / name)]
        due = final or last in changed
        for name in sorted(changed, key=lambda name: (name == last, name in first)):
            if due or name not in (*first, last):
                stamp = _stamp(self._folder / name)
                self._storage.push(self._folder / name, self._path / name)
                self._known[name] = stamp


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
