"""Going on in the tools users know: a TransformerBridge or an nnsight model of one side of a pair.

Both sit on a clone of the module tree, so that what they do to the tree (a bridge replaces submodules and sets eager
attention, nnsight wraps every module) never reaches the pair.
"""

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.errors import ExecutorDisagreement
from workbench.hooks import HooksBackend, boot_bridge, doctor, nnsight_model, weight_sharing_shadow
from workbench.pairs.adapters import merged_copy, tuner_layers
from workbench.tokens import TokenBatch

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_LENGTH = 12
_LENS_SLACK = 4
"""A bridge runs eager attention, and an adapter merged once more rounds; in half precision both show.

In float64 the softmax of eager attention stays in float32, and a bridge is held to that."""


def bridge_of(
    executor: HooksBackend, tokenizer: PreTrainedTokenizerBase, *, share: bool = True, seed: int = 0
) -> "TransformerBridge":
    """Return a TransformerBridge that says what this model says.

    An adapter is merged first: a bridge of an unmerged one shows the base's weights.

    Args:
        executor: Executor of the model.
        tokenizer: Its tokenizer; the bridge gets a copy.
        share: Whether the bridge's parameters lie in the model's own storage, so that only what is written in place is
            shared, or are a copy of all of them.
        seed: Seed of the probe that both are asked.

    Raises:
        ExecutorDisagreement: The bridge's logits differ by more than the data type's rounding.
        PairMismatch: The adapter can't be merged exactly.
        ParameterError: TransformerLens has no map of this architecture.
    """
    module = cast(PreTrainedModel, executor.module)
    plain = merged_copy(module) if next(tuner_layers(module), None) is not None else module
    bridge, _ = boot_bridge(_own_parameters(plain) if share else copy.deepcopy(plain))
    _give_tokenizer(bridge, copy.deepcopy(tokenizer))
    batch = _probe(executor.module, tokenizer, seed)
    own = executor.run(batch, logits="all").logits
    with torch.no_grad():
        theirs = cast(Any, bridge)(batch.ids)
    _require_equal(cast(Tensor, own), theirs, dtype=next(module.parameters()).dtype)
    return bridge


def traceable_model(module: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return an nnsight model of a clone that shares the module's weights.

    Args:
        module: The module, adapter layers included; nnsight runs them as they are.
        tokenizer: Its tokenizer; nnsight gets a copy, whose padding side it changes.
    """
    return nnsight_model(weight_sharing_shadow(module), tokenizer=tokenizer)


def _own_parameters(module: PreTrainedModel) -> PreTrainedModel:
    """Return a clone with parameters of its own over the same storage.

    A cast, a move or a freeze acts on a parameter itself, and would reach whoever holds the same one.
    """
    plain = [p for p in module.parameters() if type(p) is nn.Parameter]  # a quantiser's kinds carry more than data
    own: dict[Tensor, Tensor] = {p: nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in plain}
    return weight_sharing_shadow(module, replace=own)


def _give_tokenizer(bridge: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a bridge tokenise text as the tokenizer does; TransformerLens would add its own idea of a first token."""
    ids = tokenizer("a")["input_ids"]
    bridge.tokenizer = tokenizer
    bridge.cfg.tokenizer_prepends_bos = len(ids) > 1 and ids[0] == tokenizer.bos_token_id
    bridge.cfg.tokenizer_appends_eos = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    bridge.cfg.default_prepend_bos = bridge.cfg.tokenizer_prepends_bos


def _probe(module: nn.Module, tokenizer: PreTrainedTokenizerBase, seed: int) -> TokenBatch:
    rows = int(cast(Any, module.get_input_embeddings()).weight.shape[0])  # type: ignore[operator]
    plain = sorted(set(range(rows)) - set(tokenizer.all_special_ids))
    drawn = torch.randint(len(plain), (2, _LENGTH), generator=torch.Generator().manual_seed(seed))
    ids = torch.tensor(plain)[drawn]
    return TokenBatch.from_rows(ids.tolist(), pad_id=0).to(next(module.parameters()).device)


def _require_equal(own: Tensor, theirs: Tensor, *, dtype: torch.dtype) -> None:
    slack = 1 if dtype.itemsize >= torch.float32.itemsize else _LENS_SLACK
    share = max(doctor.TOLERANCE.get(dtype, 5e-2), doctor.TOLERANCE[torch.float32])
    tolerance = slack * share * max(1.0, float(own.abs().max()))
    difference = float((own.double() - theirs.to(own.device).double()).abs().max())
    if difference <= tolerance:
        return
    raise ExecutorDisagreement(
        "TransformerLens gives other logits than this model, so its bridge would show another one.",
        argument="side",
        got=f"a difference of {difference:.2g} on a probe (allowed {tolerance:.2g})",
        fix="Load the pair in float32 with attention='eager', or go on with `pair.nnsight`.",
    )
