"""Did every tensor of an adapter file arrive in the model? peft only warns when some don't."""

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor

from workbench.errors import PairMismatch


def require_landed(wrapped: PeftModel, stored: Mapping[str, Tensor], *, folder: object) -> None:
    """Compare the adapter file with what peft would store of the model now.

    Args:
        wrapped: Model with the adapter loaded.
        stored: Tensors of the adapter file.
        folder: Where they came from, for the message.

    Raises:
        PairMismatch: A tensor has no place or another value, or a tensor of the adapter kept its initial value.
    """
    expected = get_peft_model_state_dict(wrapped, adapter_name=str(wrapped.active_adapter), save_embedding_layers=False)
    whole = wrapped.state_dict()
    held = {key: expected[key] if key in expected else whole[key] for key in stored if key in expected or key in whole}
    missing = sorted(set(stored) - set(held))
    wrong = sorted(key for key, value in held.items() if not _same(value, stored[key]))
    untouched = sorted(set(expected) - set(stored))
    if missing or wrong or untouched:
        raise PairMismatch(
            "the adapter's weights did not land in the base model.",
            argument="judge",
            got=f"{folder}: {len(missing)} without a place {missing[:3]}, {len(wrong)} different {wrong[:3]}, "
            f"{len(untouched)} left at their initial value {untouched[:3]}",
            fix="Load the adapter on the base it was trained on, with the peft version that saved it.",
        )


def _same(held: Tensor, stored: Tensor) -> bool:
    """Compare bit for bit; NaN counts as itself, since it did land and is a finding of its own."""
    left, right = held.detach().cpu(), stored.to(held.dtype).cpu()
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
