"""The pair table: what was checked before base and judge were compared, and what came out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench import html
from workbench.errors import PairMismatch

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One check of a pair."""

    name: str
    """What was checked, in words."""
    status: Status
    """``fail`` forbids the comparison, ``warn`` is recorded in every result, ``skipped`` says why in ``detail``."""
    value: str
    """What was seen."""
    detail: str = ""
    """What it means, and what to do when it isn't ``ok``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """All guards of one pair, in the order they ran."""

    name: str
    """Name of the pair."""
    guards: tuple[Guard, ...]
    """One row per check."""

    @property
    def comparable(self) -> bool:
        """Return whether no guard failed."""
        return all(guard.status != "fail" for guard in self.guards)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the soft failures as sentences, for the meta block of results."""
        return tuple(f"{g.name}: {g.value}. {g.detail}".strip() for g in self.guards if g.status == "warn")

    def raise_if_failed(self) -> "PairReport":
        """Return the report, or raise with every failed guard and its cure.

        Raises:
            PairMismatch: At least one guard failed; the error carries this report as ``report``.
        """
        failed = [g for g in self.guards if g.status == "fail"]
        if not failed:
            return self
        reasons = "; ".join(f"{g.name}: {g.value}" for g in failed)
        cures = " ".join(dict.fromkeys(g.detail for g in failed if g.detail))
        error = PairMismatch(f"base and judge may not be compared ({reasons}).", argument="judge", fix=cures or None)
        error.report = self
        raise error

    def to_frame(self) -> "pd.DataFrame":
        """Return the table with columns ``guard, status, value, detail``."""
        import pandas as pd

        return pd.DataFrame(
            [{"guard": g.name, "status": g.status, "value": g.value, "detail": g.detail} for g in self.guards]
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as JSON types, for ``RunMeta.pair["guards"]``."""
        return [{"name": g.name, "status": g.status, "value": g.value, "detail": g.detail} for g in self.guards]

    def __str__(self) -> str:
        """Return the table as plain text."""
        width = max((len(g.name) for g in self.guards), default=0)
        rows = [f"  {g.status:<7} {g.name:<{width}}  {g.value}" for g in self.guards]
        verdict = "may be compared" if self.comparable else "may NOT be compared"
        return "\n".join([f"{self.name}: base and judge {verdict}", *rows])

    def _repr_html_(self) -> str:
        rows = [(html.badge(g.status), g.name, g.value, g.detail) for g in self.guards]
        verdict = "may be compared" if self.comparable else "may NOT be compared"
        caption = f"{self.name}: base and judge {verdict}"
        return html.fragment(html.table(rows, ("status", "check", "seen", "what it means"), caption=caption))
