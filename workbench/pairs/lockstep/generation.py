"""Generation in lockstep: two key-value caches, the judge's weights' and the base's, both fed the mixed stream.

The outer model's own ``generate`` drives, so that sampling options mean what they mean in Hugging Face.
Before each of its forwards the inner model is asked, with its own cache, for the masks and rotary tables
of that step.
"""

from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from workbench.errors import ParameterError
from workbench.hooks.executor import generation_kwargs, random_state_kept
from workbench.hooks.observe import at_input
from workbench.pairs.lockstep.mixing import Lockstep
from workbench.pairs.lockstep.running import in_lockstep
from workbench.pairs.lockstep.scaling import BlockShares, Ends, Scaling, block_shares
from workbench.pairs.pair import Pair
from workbench.tokens import TokenBatch

_ONE_SEQUENCE_AT_A_TIME: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "assistant_model": (None,),
    "prompt_lookup_num_tokens": (None,),
    "prefill_chunk_size": (None,),
    "cache_implementation": (None, "dynamic"),
    "use_cache": (None, True),
    "past_key_values": (None,),
}
"""What the two caches can follow: options of ``generate`` with their allowed values."""


def scaled_generate(
    pair: Pair,
    batch: TokenBatch,
    *,
    scaling: Scaling,
    ends: Ends = "judge",
    max_new_tokens: int,
    **kwargs: Any,
) -> Int[Tensor, "prompt pos_new"]:
    """Continue the prompts with fine-tuning's contribution scaled, greedily unless told otherwise; return both parts.

    Args:
        pair: Base and judge; both are left as they were, and so is the random state.
        batch: Left-padded prompts.
        scaling: What is scaled where. Spans are those of the prompt; generated tokens are scaled by ``elsewhere``
            unless ``"completion"`` is among them.
        ends: Whose embedding, final norm and head are used.
        max_new_tokens: Tokens to add at most.
        **kwargs: Handed to ``generate``; beams, assistants and static caches are refused.

    Raises:
        ParameterError: An option needs what two caches can't follow, or the pair has no such block, head or span.
    """
    with in_lockstep(pair, ends=ends) as lockstep:
        outer = pair.module(ends)
        _check_options(outer, kwargs)
        batch = at_input(outer, batch)
        steps = _Steps(
            lockstep,
            prompt=block_shares(scaling, batch, pair=pair, ends=ends, step="prompt"),
            completion=block_shares(scaling, batch, pair=pair, ends=ends, step="completion"),
            rows=len(batch),
            cache_config=pair.module("base" if ends == "judge" else "judge").config.get_text_config(decoder=True),
        )
        handle = outer.register_forward_pre_hook(steps.advance, with_kwargs=True)
        try:
            with random_state_kept(outer):
                own = generation_kwargs(outer, batch, max_new_tokens=max_new_tokens, kwargs=kwargs)
                return outer.generate(**own)  # type: ignore[operator]
        finally:
            handle.remove()


class _Steps:
    """Sets the lockstep for each forward of a generation and keeps the inner model's cache."""

    def __init__(
        self,
        lockstep: Lockstep,
        *,
        prompt: tuple[BlockShares, ...],
        completion: tuple[BlockShares, ...],
        rows: int,
        cache_config: PreTrainedConfig,
    ) -> None:
        self.lockstep, self.prompt, self.completion, self.rows = lockstep, prompt, completion, rows
        self.cache_config = cache_config
        self.cache: DynamicCache | None = None
        self.later = any(share.only != 0.0 for share in completion)

    def advance(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Prepare the forward that is about to run."""
        step, cache = self.lockstep, kwargs.get("past_key_values")
        if args or not isinstance(cache, DynamicCache):
            raise ParameterError("generation needs a dynamic cache.", argument="kwargs", got=type(cache).__name__)
        begins = cache.get_seq_length() == 0
        if begins:
            times = kwargs["input_ids"].shape[0] // self.rows
            step.shares = tuple(share.repeated(times) for share in self.prompt)
            self.cache = DynamicCache(config=self.cache_config)
        else:
            step.shares = self.completion
        # A block whose cache is read later runs even where its own output isn't wanted.
        step.run_both = self.later or (begins and any(share.only == 1.0 for share in step.shares))
        if step.needs_inner:
            step.arguments = step.inner.block_arguments({**kwargs, "past_key_values": self.cache, "use_cache": True})


def _check_options(module: PreTrainedModel, kwargs: dict[str, Any]) -> None:
    config = kwargs.get("generation_config") or module.generation_config
    for name, allowed in _ONE_SEQUENCE_AT_A_TIME.items():
        value = kwargs.get(name, getattr(config, name, None))
        if value not in allowed:
            raise ParameterError(
                "two caches can't follow this way of generating.", argument=name, got=value, allowed=map(repr, allowed)
            )
