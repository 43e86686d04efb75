"""Pictures that two splits share, under one name or as copies under several."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.images import read_bytes


@dataclass(frozen=True)
class Twins:
    """Pictures of a second split that are in the first, too.

    Attributes:
        same: paths that are one file, also by way of links.
        copies: pairs of paths with the same bytes, of the first and of the second split.
    """

    same: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.same) + len(self.copies)

    def text(self, where: str) -> str:
        """How many pictures are `where`, by what, and one of them."""
        kinds = [f"{len(self.same)} by name"] * bool(self.same) + [f"{len(self.copies)} as copies"] * bool(self.copies)
        example = self.same[0] if self.same else " and ".join(self.copies[0])
        verb = "pictures are" if len(self) > 1 else "picture is"
        return f"{len(self)} {verb} {where} ({', '.join(kinds)}), such as {example}"


def shared_pictures(first: Iterable[str], second: Iterable[str]) -> Twins:
    """Compares the pictures of two splits. Only those of equal size are read, and each once."""
    known = _stats(first)
    files = {(stat.st_dev, stat.st_ino) for stat in known.values()}
    sizes = defaultdict(list)
    for path, stat in known.items():
        sizes[stat.st_size].append(path)
    contents: dict[int, dict[bytes, str]] = {}  # of the first split, by size and digest
    same, copies = [], []
    for path, stat in _stats(second).items():
        size = stat.st_size
        if (stat.st_dev, stat.st_ino) in files:
            same.append(path)
        elif size in sizes:
            if size not in contents:
                contents[size] = {_digest(other): other for other in sizes[size]}
            if (twin := contents[size].get(_digest(path))) is not None:
                copies.append((twin, path))
    return Twins(tuple(same), tuple(copies))


def _stats(paths: Iterable[str]) -> dict[str, os.stat_result]:
    """Of every picture once; drawn ones are no files."""
    return {path: Path(path).stat() for path in dict.fromkeys(paths) if not path.startswith("synthetic:")}


def _digest(path: str) -> bytes:
    return hashlib.blake2b(read_bytes(path)).digest()
