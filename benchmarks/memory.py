"""How benchmarks of memory measure: the resident memory of a process of their own, sampled while something runs."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PAGE = 4096


def resident_mb() -> float:
    """Return the resident memory of this process, MB; mapped pages of files count while they are mapped."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 2**20


def anonymous_mb() -> float:
    """Return the same without mapped pages of files, which the system takes back when it needs them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


class Watch:
    """Samples this process' memory in a thread: ``with Watch() as watch: ...``, then ``watch.above`` or ``watch.peak``.

    Args:
        every: Seconds between samples.
        measured: What is sampled, MB.
    """

    def __init__(self, *, every: float = 0.002, measured: Callable[[], float] = resident_mb) -> None:
        self.start = self.peak = measured()
        self._measured = measured
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def above(self) -> float:
        """Return how far memory rose above where it stood at the start, MB."""
        return self.peak - self.start

    def __enter__(self) -> "Watch":
        """Begin to sample."""
        self.start = self.peak = self._measured()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._measured())

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            self.peak = max(self.peak, self._measured())


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run ``script --one arguments...`` in a process of its own and return the JSON line it prints last."""
    done = subprocess.run([sys.executable, script, "--one", *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])
