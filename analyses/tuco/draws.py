"""How an effect compares with the same effect of random changes of equal norm."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analyses.metrics import further_draw

FEWEST_DRAWS = 3
"""With fewer random changes nothing can be told from chance."""


class Chance(NamedTuple):
    """Where one more random change would fall, and how unlikely it is to fall as far out as the effect."""

    value: float
    """Mean of the draws."""
    low: float
    """Lower end of the 95% prediction interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of the effect as a further draw; 1 with too few draws."""


def against_draws(effect: float, draws: Float[np.ndarray, " draw"]) -> Chance:
    """Hold an effect against random draws: Student's prediction of one more draw.

    One random change moves every item the same way, so that items alone can't tell an effect from
    chance; only several changes show how far chance goes.

    Args:
        effect: Value of the real change.
        draws: Values of the random ones.
    """
    mean = float(draws.mean()) if len(draws) else np.nan
    if len(draws) < FEWEST_DRAWS:
        return Chance(mean, np.nan, np.nan, 1.0)
    low, high = further_draw(draws)
    spread = float(draws.std(ddof=1) * np.sqrt(1 + 1 / len(draws)))
    if spread == 0.0:
        return Chance(mean, low, high, float(effect == mean))
    return Chance(mean, low, high, float(2 * stats.t.sf(abs(effect - mean) / spread, len(draws) - 1)))
