"""Draw the figures of ``docs/cross_model_patching.md`` from the embedded models, and print the findings it quotes.

Run from the repository: ``python docs/figures/make_patching.py [items] [folder]``; some minutes on two cores.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from analyses import cross_model_patching as patching
from analyses.judged import JudgedResult
from workbench import load_items, load_pair
from workbench.judges.perturb import get_perturbation

_DPI = 90


def main(n_items: int, folder: Path) -> None:
    """Run every part of cross-model patching once and save one figure of each.

    Args:
        n_items: Items of each run, the first of the demo's test items.
        folder: Where the figures go.
    """
    items = load_items("demo:test", limit=n_items)
    demo, confined = load_pair("demo"), load_pair("confined")
    made: dict[str, tuple[Callable[[], JudgedResult], int]] = {
        "seen": (lambda: patching.run(demo, items), 0),
        "confined-seen": (lambda: patching.run(confined, items), 0),
        "confined-written": (lambda: patching.swap_weights(confined, items), 0),
        "written": (lambda: patching.swap_weights(demo, items), 0),
        "lens": (lambda: patching.verdict_lens(demo, items), 2),
        "screen": (lambda: patching.screen(demo, items), 0),
        "paths": (lambda: patching.trace_paths(demo, items), 2),
        "masks": (lambda: patching.learn_mask(demo, items), 0),
        "circuits": (lambda: patching.circuit(demo, items), 0),
        "contrast": (lambda: patching.contrast(demo, items, "order"), 0),
        "bias": (lambda: patching.locate_bias(demo, items, get_perturbation("bandwagon")), 0),
    }
    for name, (measure, panel) in made.items():
        result = measure()
        sys.stdout.write(f"== {name} ({result.meta.wall_time_s:.0f} s)\n{result.summary()}\n\n")
        sys.stdout.write("".join(f"   panel {i}: {p.title}\n" for i, p in enumerate(result.panels())))
        sys.stdout.flush()
        result.panels()[panel].draw().savefig(folder / f"patching-{name}.png", dpi=_DPI, facecolor="white")


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 48,
        Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent,
    )
