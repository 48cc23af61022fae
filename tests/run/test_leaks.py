"""What one measurement leaves behind must not reach the next one."""

import os
import shutil
import threading
from pathlib import Path

import psutil
import pytest

from sdxl.core import forking, isolate

MIB = 1 << 20


def leave_things(link, size):
    """Everything a careless backend could leave: environment, folder, threads, memory, handlers."""
    import resource

    os.environ["LEFT_BEHIND"] = "yes"
    os.environ["OMP_NUM_THREADS"] = "7"
    os.chdir("/")
    os.umask(0)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    filled = bytearray(os.urandom(MIB)) * size
    return len(filled)


def look_around(link):
    """What a fresh measurement finds."""
    import resource

    mask = os.umask(0o22)
    os.umask(mask)
    return {
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "umask": mask,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": psutil.Process().num_fds(),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@pytest.mark.slow
@pytest.mark.parametrize("preload", [(), ("sdxl.run.worker",), forking.LIBRARIES],
                         ids=["spawn", "light", "libraries"])  # fmt: skip
def test_nothing_reaches_the_next_measurement(tmp_path, preload):
    def run(work, *args, **options):
        return isolate.run(
            work, *args, log=tmp_path / "log", limit_s=100, on_report=lambda _: None,
            preload=preload, **options,
        )  # fmt: skip

    run(look_around)  # starts the server that children are forked from
    before, here = run(look_around), dict(os.environ)
    threads = threading.active_count()
    files = psutil.Process().num_fds()
    assert run(leave_things, 400) == 400 * MIB
    assert run(look_around, env={"CUDA_VISIBLE_DEVICES": "3"})["environment"][
        "CUDA_VISIBLE_DEVICES"] == "3"  # fmt: skip
    after = run(look_around)
    big = after.pop("peak_rss") - before.pop("peak_rss")
    assert abs(big) < 100 * MIB, "memory of the one before is not counted again"
    assert after == before
    assert "CUDA_VISIBLE_DEVICES" not in after["environment"] or (
        after["environment"]["CUDA_VISIBLE_DEVICES"] == here.get("CUDA_VISIBLE_DEVICES")
    )
    assert dict(os.environ) == here
    assert threading.active_count() <= threads and psutil.Process().num_fds() <= files


@pytest.mark.gpu
def test_gpu_memory_does_not_reach_the_next_measurement(tmp_path):
    if not shutil.which("nvidia-smi"):
        pytest.skip("no CUDA device")

    def run(size):
        return isolate.run(
            fill_the_gpu, size, log=tmp_path / "log", limit_s=100, on_report=lambda _: None
        )

    first, _ = run(1)
    run(1024)
    again, peak = run(1)
    assert abs(first - again) < 64 * MIB and peak < 64 * MIB


def fill_the_gpu(link, size):
    """(free bytes before, peak of the allocator) around filling `size` MiB."""
    import torch

    free = torch.cuda.mem_get_info()[0]
    torch.empty(size * MIB, dtype=torch.uint8, device="cuda").fill_(1)
    return free, torch.cuda.max_memory_allocated()


@pytest.mark.slow
def test_a_run_with_scores_ends_without_a_warning(cli):
    """Loading the scorer's networks draws a progress bar in the child."""
    done = cli("backend=fake", "limit=8", "dataset=scenes", "quality=fast", "backend.sample_ms=0",
               "scenario.min_duration_ms=0", timeout=300)  # fmt: skip
    assert done.code == 0, done.err
    assert "leaked" not in done.err and "arning" not in done.err
