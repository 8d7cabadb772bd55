"""What every result of judged items has in common."""

from analyses.judged import JudgedResult
from analyses.tuco.attacks import AttackResult
from analyses.tuco.heads import HeadsResult
from analyses.tuco.levels import LevelsResult, StagesResult
from analyses.tuco.paths import PathsResult
from analyses.tuco.result import TucoResult
from analyses.tuco.scaling import ScalingResult
from analyses.tuco.tokens import TokenMapResult

KNOWN = {AttackResult, HeadsResult, LevelsResult, PathsResult, ScalingResult, StagesResult, TokenMapResult, TucoResult}


def _below(kind):
    return {kind}.union(*(_below(child) for child in kind.__subclasses__()))


def test_no_result_prints_its_arrays():
    """A dataclass decorator without repr=False writes a repr of all fields over the one-line one."""
    kinds = {kind for kind in _below(JudgedResult) if kind.__module__.startswith("analyses.")}
    assert kinds >= KNOWN
    # A generated repr is wrapped against recursion; the ones written by hand are not.
    assert [kind.__name__ for kind in kinds if hasattr(kind.__repr__, "__wrapped__")] == []
