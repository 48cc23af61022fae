"""Does a server lose anything? 64 clients, slow ones, odd requests, a worker killed in the middle.

    python benchmarks/serve_load.py                        # 5 minutes each: fake, bundled model
    python benchmarks/serve_load.py --minutes 0.2 --model fake
    python benchmarks/serve_load.py --ray --model fake     # two replicas of Ray Serve

Every request must be answered by its own picture (the same seed is the same picture, to 2 levels of
255), or by 429; a worker is killed in the middle and must be replaced; clients that ask or read
slowly must not slow the others; 1,000 odd requests get 4xx and no traceback; the server and its
workers may not have grown by more than 5 % after the first tenth. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time

import psutil
from _serve import Account, Served, ask, clients, connect, fuzz, kill, say, slow_clients, status

GROWTH = 1.05
MODELS = {
    "fake": ("backend=fake", "backend.latency_ms=20", "backend.sample_ms=5"),
    "tiny": ("model=tiny",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--odd", type=int, default=1000, help="malformed requests")
    parser.add_argument("--model", choices=MODELS, help="one of the two (default: both)")
    parser.add_argument("--ray", action="store_true", help="two replicas of Ray Serve")
    chosen = parser.parse_args()
    names = [chosen.model] if chosen.model else list(MODELS)
    found = {name: load(name, chosen) for name in names}
    print(json.dumps(found))
    return 0 if all(each["ok"] for each in found.values()) else 1


def load(name: str, chosen: argparse.Namespace) -> dict:
    ray = ["--ray", "--replicas", "2"] if chosen.ray else []
    words = [*MODELS[name], "--queue", str(chosen.clients), *ray]
    with Served(*words) as served:
        found = attack(served, chosen.minutes * 60, chosen.clients, chosen.odd)
    found["exit_code"], found["line"] = served.code, served.line
    if served.code or "Traceback" in served.said():
        found["wrong"].append(f"exit code {served.code}: {served.said()[-500:]}")
    growth = found["growth"]
    found["ok"] = not found["wrong"] and found["replaced"] and growth <= GROWTH
    say(f"{name}: {found['pictures']:,} pictures, {found['rate']:.2f}/s, "
        f"p50 {found['p50_ms']:,.0f} ms, p99 {found['p99_ms']:,.0f} ms; "
        f"{found['full']} times 429; growth {growth:.4f}; "
        f"wrong: {'; '.join(found['wrong'][:3]) or 'nothing'}")  # fmt: skip
    return found


def attack(served: Served, seconds: float, count: int, odd: int) -> dict:
    """Load for `seconds`; what came of it."""
    over, account, sizes = threading.Event(), Account(), []
    threads = clients(served.url, count, over, account)
    watcher = threading.Thread(target=watch, args=(served, sizes, over), daemon=True)
    watcher.start()
    slow = slow_clients(served.url, 12)
    began = time.monotonic()
    wrong = fuzz(served.url, odd)
    time.sleep(max(0.0, seconds / 2 - (time.monotonic() - began)))
    before = {each.pid for each in served.workers()}
    victim = kill(served)
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    lasted = time.monotonic() - began
    over.set()
    for thread in threads:
        thread.join(600)
    wrong += overflow(served.url, count)
    for line in slow:
        line.close()
    replaced = replacement(served, before, victim)
    wrong += account.wrong + ([] if replaced else ["the killed worker was not replaced"])
    wrong += [f"{name} says {code}" for name in ("/health", "/metrics")
              if (code := status(served.url, name)) != 200]  # fmt: skip
    return {
        "pictures": account.statuses[200],
        "rate": account.statuses[200] / lasted,
        "p50_ms": 1e3 * account.percentile(0.5),
        "p99_ms": 1e3 * account.percentile(0.99),
        "full": account.statuses[429],
        "odd": odd,
        "replaced": replaced,
        "growth": grown(sizes),
        "wrong": wrong,
    }


def overflow(url: str, queue: int) -> list[str]:
    """More than the queue holds, at once: some get 429 with Retry-After, the others pictures."""
    codes: list[int] = []
    lock, each = threading.Lock(), max(1, min(10, queue // 4))

    def one() -> None:
        code, headers, _ = ask(connect(url), {"prompt": "x", "n": each})
        with lock:
            codes.append(code if code != 429 or "Retry-After" in headers else -1)

    threads = [threading.Thread(target=one) for _ in range((3 * queue + 32) // each)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [] if set(codes) == {200, 429} else [f"overflow was answered by {set(codes)}"]


def replacement(served: Served, before: set[int], victim: int, wait_s: float = 120.0) -> bool:
    """Whether as many workers live as before, without the victim."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        now = {each.pid for each in served.workers()}
        if victim not in now and len(now) == len(before):
            return True
        time.sleep(0.2)
    return False


def watch(served: Served, sizes: list[float], over: threading.Event) -> None:
    """Memory of the server and its workers, twice a second."""
    while not over.wait(0.5):
        try:
            server = psutil.Process(served.pid)
            family = [server, *server.children(recursive=True)]
            sizes.append(sum(each.memory_info().rss for each in family))
        except psutil.Error:
            continue


def grown(sizes: list[float]) -> float:
    """Median memory of the last tenth of the time over that of the second tenth."""
    tenth = max(1, len(sizes) // 10)
    first, last = sizes[tenth : 2 * tenth] or sizes, sizes[-tenth:]
    return statistics.median(last) / statistics.median(first)


if __name__ == "__main__":
    sys.exit(main())
