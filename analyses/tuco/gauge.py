"""How long a write is: L1 as in Definition 4.3, L2, or L2 weighted with the final norm's gain (what logits see)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.readout import NormProbe
from analyses.tuco.shares import NORMS, Norm
from workbench.errors import ParameterError
from workbench.hooks import HooksBackend, running_device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gauge:
    """A norm on writes to the stream."""

    name: Norm
    """``l1``, ``l2``, or ``final_norm``: L2 after the final norm's centring and gain."""
    probe: NormProbe | None = None
    """The final norm's centring and gain, up to a factor no share sees; None leaves writes as they are."""

    @classmethod
    def of(cls, name: Norm, judge: HooksBackend) -> "Gauge":
        """Return the gauge of a name; the gain is read off the judge's own final norm.

        Raises:
            ParameterError: The name isn't one of these.
        """
        if name in ("l1", "l2"):
            return cls(name=name)
        if name != "final_norm":
            raise ParameterError("no such norm.", argument="norm", got=name, allowed=NORMS)
        module = judge.module.get_submodule(judge.anatomy.final_norm)
        dtype = next((p.dtype for p in module.parameters()), torch.float32)
        device = running_device(module) if any(True for _ in module.parameters()) else torch.device("cpu")
        probe = NormProbe.of(module, torch.zeros(1, judge.anatomy.d_model, dtype=dtype, device=device))
        return cls(name=name, probe=probe)

    def weigh(self, x: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """Return what of a write this norm sees; linear, so that sums of writes stay sums."""
        return x if self.probe is None else self.probe.centre(x) * self.probe.gain.to(x)

    def norm(self, weighed: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead"]:
        """Return the length of a weighed write."""
        return torch.linalg.vector_norm(weighed, ord=1 if self.name == "l1" else 2, dim=-1)

    def direction(self, total: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """Return what splits the norm of a sum among its terms: ``<term, direction>`` add up to ``|sum|``."""
        if self.name == "l1":
            return total.sign()
        size = self.norm(total)[..., None]
        return torch.where(size > 0, total / size, 0.0)
