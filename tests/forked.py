"""A Python that has imported the libraries, forked for every command of a test.

A process of its own starts in seconds, nearly all of them imports, and a test of what a command
does pays them once for itself and once for the server of its workers. Here both are forks. Tests
of starts, signals and streams start processes of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = ("hydra", "onnx", "modelopt.torch.quantization", "diffusers.loaders.single_file",
             "matplotlib", "scipy.linalg")  # fmt: skip
"""None that starts a thread when imported: a fork has none of them and would wait for it."""
OURS = ("sdxl.cli", "sdxl.run.cell", "sdxl.run.plan", "sdxl.run.worker", "sdxl.quant.command",
        "sdxl.run.export", "sdxl.training.command", "sdxl.backends.fake",
        "sdxl.backends.torch.stages", "sdxl.bench.pool_worker",
        "sdxl.report.terminal.table")  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
READ_LATE = ("SDXL_", "MLFLOW_", "COLUMNS", "HF_HOME", "HOME", "PYTEST_", "TMPDIR",
             "TORCHINDUCTOR_CACHE_DIR")  # fmt: skip
"""Variables that may differ from those the libraries were imported with; torch sets the last."""
OFFLINE = str(Path(__file__).parent / "offline")
_LONGEST = 1 << 17
_lock = threading.Lock()
_server: socket.socket | None = None
_KNOWN = {**os.environ, "PYTHONPATH": OFFLINE}
"""The server's variables: those of before the first test, whichever test asks for it first."""


def run(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *words], ...)` with both streams captured as text."""
    env = {"PYTHONPATH": OFFLINE, **env}
    with _lock:
        if _elsewhere(words, cwd) or any(_differs(name, env) for name in {*env, *_KNOWN}):
            return subprocess.run(
                [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True,
                timeout=timeout, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        server = _started()
        request = json.dumps({"words": list(words), "cwd": str(cwd), "env": env}).encode()
        assert len(request) < _LONGEST
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            socket.send_fds(server, [request], [out.fileno(), err.fileno()])
            pid = int(server.recv(99))
            code, late = _wait(server, pid, timeout)
            said = [_text(out), _text(err)]
    if late:
        raise subprocess.TimeoutExpired(list(words), timeout, *said)
    return subprocess.CompletedProcess([sys.executable, *words], code, *said)


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


def _wait(server: socket.socket, pid: int, timeout: float) -> tuple[int, bool]:
    server.settimeout(timeout)
    try:
        return int(server.recv(99)), False
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        server.settimeout(None)
        return int(server.recv(99)), True
    finally:
        server.settimeout(None)


def _elsewhere(words: Sequence[str], cwd: Path) -> bool:
    """Whether the command finds modules of another folder, or none."""
    return (cwd if words[0] == "-m" else (cwd / words[0]).parent).resolve() != ROOT


def _differs(name: str, env: Mapping[str, str]) -> bool:
    return not name.startswith(READ_LATE) and env.get(name) != _KNOWN.get(name)


def _started() -> socket.socket:
    global _server
    if _server is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], env=_KNOWN,
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(process.wait)
        atexit.register(ours.close)
        _server = ours
    return _server


def _serve(server: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """In the server: fork for each request; returns in the forks, and where nobody asks more."""
    while True:
        message, files, *_ = socket.recv_fds(server, _LONGEST, 2)
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            server.close()
            return json.loads(message), files
        for file in files:
            os.close(file)
        server.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        server.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(words: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """The command, as if this process had been started for it."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None
    _fork_the_workers_server()
    try:
        _run(words, cwd)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # as Python ends, but for the memory: most of it is shared
    gc.collect()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(words: list[str], cwd: str) -> None:
    if words[0] == "-m":
        sys.path[0], sys.argv = cwd, words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        runpy.run_path(words[0], run_name="__main__")


def _fork_the_workers_server() -> None:
    """Before there are threads; it would otherwise be a process that imports everything again."""

    def forked(_: str, arguments: list[str], kept: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            forkserver._forkserver._lock = threading.Lock()  # this one's is held meanwhile
            edges = sorted({2, *kept})
            for low, high in zip(edges, [*edges[1:], 4096], strict=True):
                os.closerange(low + 1, high)
            try:
                exec(arguments[-1], {})
            finally:
                os._exit(0)
        return pid

    started, tracker = util.spawnv_passfds, resource_tracker.ensure_running
    util.spawnv_passfds, resource_tracker.ensure_running = forked, lambda: None
    try:
        multiprocessing.set_forkserver_preload(["sdxl.core.preload", *OURS])
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds, resource_tracker.ensure_running = started, tracker


def _remember() -> None:
    """What processes keep: Hydra its plug-ins, the schemas and how words are parsed; we counts."""
    from sdxl.config.compose import Composer
    from sdxl.config.load import load
    from sdxl.config.registry import register
    from sdxl.core import environment
    from sdxl.model import cost, tokenizer

    register()
    for model in ("tiny", "tiny_random"):
        cost.count(load(Composer("run").composed((f"model={model}",))), 1)
    tokenizer.tokenizers()
    environment.diffusers_in_use()


def _main() -> None:
    sys.path.insert(0, str(ROOT))
    gc.set_threshold(200_000, 50, 100)  # as commands do: see core/collector.py
    import importlib

    with warnings.catch_warnings(action="ignore"):
        for name in ("sdxl.core.preload", *LIBRARIES, *OURS):
            importlib.import_module(name)
        _remember()
    del sys.path[0]
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "one of LIBRARIES started a thread"
    gc.set_threshold(700, 10, 10)
    gc.collect()
    gc.freeze()  # a fork's collections would look at all of it, and so copy its memory
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is None:
        os._exit(0)
    request, files = asked
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    _become(**request)


if __name__ == "__main__":
    _main()
