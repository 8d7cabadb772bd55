"""The pair table: what was checked before base and judge were compared, and what came out."""

from collections.abc import Sequence
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

    @property
    def counts(self) -> str:
        """Return how many guards came out how, in words, e.g. ``"2 warn, 1 skipped, 48 ok"``."""
        number = {status: sum(g.status == status for g in self.guards) for status in _BY_WEIGHT}
        return ", ".join(f"{n} {status}" for status, n in number.items() if n)

    def by_weight(self) -> tuple[Guard, ...]:
        """Return the guards with what forbids, warns or was skipped first, in the order they ran otherwise."""
        return tuple(sorted(self.guards, key=lambda g: _BY_WEIGHT.index(g.status)))

    def to_html(self) -> html.Markup:
        """Return the verdict, what needs attention, and the rest folded away, as one piece of a page."""
        loud = [g for g in self.by_weight() if g.status != "ok"]
        quiet = [g for g in self.guards if g.status == "ok"]
        verdict = "may be compared" if self.comparable else "may NOT be compared"
        heading = html.Markup("<p><strong>{}</strong> ({})</p>").format(
            html.escape(f"{self.name}: base and judge {verdict}"), html.escape(self.counts)
        )
        folded = html.Markup("<details><summary>{} checks are ok: show them</summary>{}</details>").format(
            len(quiet), _table(quiet)
        )
        return html.Markup().join([heading, _table(loud) if loud else html.Markup(), folded])

    def _repr_html_(self) -> str:
        return html.fragment(self.to_html())


_BY_WEIGHT: tuple[Status, ...] = ("fail", "warn", "skipped", "ok")


def _table(guards: Sequence[Guard]) -> html.Markup:
    rows = [(html.badge(g.status), g.name, g.value, g.detail) for g in guards]
    return html.table(rows, ("status", "check", "seen", "what it means"))
