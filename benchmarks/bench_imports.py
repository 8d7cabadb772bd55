"""How long do imports take, each in a fresh interpreter? Goal: ``workbench.results`` under half a second.

python benchmarks/bench_imports.py --rounds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

MODULES = ("numpy", "workbench.results", "workbench.reports", "torch", "analyses.tuco")
_PROBE = (
    "import sys, time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t, 'torch' in sys.modules)"
)


def main() -> None:
    """Import each module in its own interpreter, interleaved, and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    inside: dict[str, list[float]] = {name: [] for name in MODULES}
    whole: dict[str, list[float]] = {name: [] for name in MODULES}
    loads_torch: dict[str, bool] = {}
    for _ in range(rounds + 1):
        for name in MODULES:
            start = time.perf_counter()
            command = [sys.executable, "-c", _PROBE.format(name=name)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            whole[name].append(time.perf_counter() - start)
            inside[name].append(float(answer[0]))
            loads_torch[name] = answer[1] == "True"
    for name in MODULES:
        # The first round fills the page cache and isn't counted.
        line = {
            "benchmark": "imports",
            "module": name,
            "median_import_seconds": round(statistics.median(inside[name][1:]), 4),
            "median_process_seconds": round(statistics.median(whole[name][1:]), 4),
            "loads_torch": loads_torch[name],
            "rounds": rounds,
            "python": sys.version.split()[0],
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
