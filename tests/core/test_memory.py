"""Freed memory goes back to the system."""

import ctypes
import sys

import psutil
import pytest
import torch

from sdxl.core import memory


def rss():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="this C library is not glibc",
)
def test_what_the_heap_keeps_is_returned():
    large = torch.ones(28 << 20, dtype=torch.uint8)
    del large  # from now on glibc keeps blocks of its size
    blocks = [torch.ones(1 << 20, dtype=torch.uint8) for _ in range(200)]
    above = [torch.ones(1 << 20, dtype=torch.uint8)]  # holds the heap's end
    held = rss()
    blocks.clear()
    memory.give_back()
    assert rss() < held - (150 << 20) and above


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    memory.give_back()
