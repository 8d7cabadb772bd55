"""Draw the figure of ``docs/pairs.md`` from the embedded demo pair, and print what the page says about it.

Run from the repository: ``python docs/figures/make_pairs.py [folder]``; seconds.
"""

import sys
from pathlib import Path

from workbench import load_pair

_DPI = 90


def main(folder: Path) -> None:
    """Measure the demo pair's weight difference and save its figure.

    Args:
        folder: Where the figure goes.
    """
    delta = load_pair("demo", doctor=False).delta()
    sys.stdout.write(f"{delta.summary()}\n")
    axes = delta.plot()
    axes.set_title("Where the weights of the demo judge moved", loc="left")
    if figure := axes.get_figure(root=True):
        figure.savefig(folder / "pairs-delta.png", dpi=_DPI, facecolor="white", bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/figures"))
