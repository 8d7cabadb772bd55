"""Draw the figures of ``docs/tuco.md`` from the embedded models, and print the findings the page quotes.

Run from the repository: ``python docs/figures/make_tuco.py [items] [folder]``; some minutes on two cores.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes

from analyses import tuco
from analyses.judged import JudgedResult
from analyses.tuco import figures
from analyses.tuco.attacks import figures as attack_figures
from analyses.tuco.heads import figures as head_figures
from analyses.tuco.paths import figures as path_figures
from analyses.tuco.scaling import figures as scaling_figures
from analyses.tuco.tokens import figures as token_figures
from workbench import load_items, load_pair
from workbench.organisms import attack_texts

_DPI = 90


def main(n_items: int, folder: Path) -> None:
    """Run every TuCo analysis once and save one figure of each.

    Args:
        n_items: Items of each run, the first of the demo's test items.
        folder: Where the figures go.
    """
    items = load_items("demo:test", limit=n_items)
    pair, injected, sham = (load_pair(name) for name in ("demo", "injected", "sham-injected"))
    texts = list(attack_texts("test"))
    made: dict[str, tuple[Callable[[], JudgedResult], Callable[..., Axes]]] = {
        "how-much": (lambda: tuco.run(pair, items), figures.gap_parts),
        "heads": (lambda: tuco.split_heads(pair, items), lambda r: head_figures.part_bars(r, view="content")),
        "tokens": (lambda: tuco.map_tokens(pair, items), token_figures.concentration_by_region),
        "paths": (lambda: tuco.attribute_paths(pair, items), lambda r: path_figures.removal(r, view="content")),
        "scaling": (
            lambda: tuco.scale(pair, items, scalings=tuco.by_span(pair, items), control_items=16),
            scaling_figures.compare_changes,
        ),
        "levels": (
            lambda: tuco.compare_levels(pair, items, others={"injected": injected, "sham": sham}),
            lambda r: r.panels()[1].draw().axes[0],
        ),
        "attack": (lambda: tuco.compare_attacks(injected, items, attack=texts), attack_figures.gap_by_variant),
        "attack-sham": (lambda: tuco.compare_attacks(sham, items, attack=texts), attack_figures.gap_by_variant),
        "stages": (
            lambda: tuco.compare_stages({"judge training": pair, "training on notes": injected}, items),
            lambda r: r.push_by_stage(),
        ),
    }
    for name, (measure, draw) in made.items():
        result = measure()
        sys.stdout.write(f"== {name}\n{result.summary()}\n\n")
        sys.stdout.flush()
        if figure := draw(result).get_figure(root=True):
            figure.savefig(folder / f"tuco-{name}.png", dpi=_DPI, facecolor="white", bbox_inches="tight")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, Path(sys.argv[2] if len(sys.argv) > 2 else "docs/figures"))
