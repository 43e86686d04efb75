"""What a process keeps and gives back, counted by the kernel and by weak references."""

from __future__ import annotations

import gc
import platform
import resource
import subprocess
import sys
import weakref

import pytest
import torch

from trainer.config import TrainConfig
from trainer.runtime import process

COUNT_FAULTS = """
import resource, sys, torch
from trainer.config import TrainConfig
from trainer.runtime.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process(TrainConfig().with_threads())
def work():
    tensors = [torch.ones(16 << 20) for _ in range(3)]  # 64 MB each
for _ in range(4):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of ten times three tensors of 64 MB, made and freed, after the process has settled."""
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    pages = 10 * 3 * (64 << 20) // resource.getpagesize()
    assert faults("plain") > pages // 2  # else there would be nothing to gain
    assert faults("prepared") < pages // 4  # the heap may still grow once or twice


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    threads = torch.get_num_threads()
    process.prepare_process(TrainConfig().replace({"run.threads": 1}))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_what_refers_to_itself_is_freed_and_the_gpu_cache_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(2, 2)
    network.loop = [network]  # a circle, which only the collector can free
    left, emptied, reset = weakref.ref(network), [], []
    gc.disable()
    try:
        del network
        assert left() is not None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(left()))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reset.append(True))
        process.release_memory()
    finally:
        gc.enable()
    assert emptied == [None]  # once, and after the collection
    assert reset == [True]
