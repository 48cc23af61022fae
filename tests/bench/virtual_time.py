"""Time that passes only while every thread waits: what a slow or busy machine cannot change."""

from __future__ import annotations

import threading


class World:
    """Stands for the modules `time` and `threading` of code under test.

    All conditions share one lock. Where no thread runs any more, the clock jumps to the earliest
    end of a wait; without one it is a deadlock, which is an error in the thread that waits last.
    """

    Lock = staticmethod(threading.Lock)

    def __init__(self) -> None:
        self.now, self.running = 0.0, 1  # this thread
        self.asleep: list[_Sleeper] = []
        self.woken = threading.Condition(threading.RLock())

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.woken:
            _Sleeper(self, None, self.now + max(0.0, seconds)).wait()

    def Condition(self) -> Condition:  # noqa: N802
        return Condition(self)

    def Event(self) -> Event:  # noqa: N802
        return Event(self)

    def Thread(self, **words) -> Thread:  # noqa: N802
        return Thread(self, **words)

    def stopped(self) -> None:
        """One thread runs less; with the lock held."""
        self.running -= 1
        if self.running or not self.asleep:
            return
        ends = [each for each in self.asleep if each.end is not None]
        assert ends, "everybody waits for somebody"
        first = min(ends, key=lambda each: each.end)
        self.now = max(self.now, first.end)
        first.wake()


class _Sleeper:
    def __init__(self, world: World, at: Condition | None, end: float | None) -> None:
        self.world, self.at, self.end, self.awake = world, at, end, False

    def wait(self) -> None:
        self.world.asleep.append(self)
        self.world.stopped()
        while not self.awake:
            self.world.woken.wait()

    def wake(self) -> None:
        self.awake = True
        self.world.asleep.remove(self)
        self.world.running += 1
        self.world.woken.notify_all()


class Condition:
    """`threading.Condition`, as far as it is used."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> None:
        self._world.woken.acquire()

    def __exit__(self, *_: object) -> None:
        self._world.woken.release()

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else self._world.now + max(0.0, timeout)
        _Sleeper(self._world, self, end).wait()
        return end is None or self._world.now < end

    def notify_all(self) -> None:
        for each in [each for each in self._world.asleep if each.at is self]:
            each.wake()


class Event:
    """`threading.Event` that nobody sets: a wait."""

    def __init__(self, world: World) -> None:
        self.wait = world.sleep


class Thread:
    """`threading.Thread`, whose life the world counts."""

    def __init__(self, world: World, target, args=(), **_: object) -> None:
        self._world, self._over = world, Condition(world)
        self._work, self._alive = lambda: target(*args), True

    def start(self) -> None:
        with self._world.woken:
            self._world.running += 1
        threading.Thread(target=self._run, daemon=True).start()

    def join(self) -> None:
        with self._over:
            while self._alive:
                self._over.wait()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._over:
                self._alive = False
                self._over.notify_all()
                self._world.stopped()
