"""Have base and judge the same shape? These guards come first: weights of two shapes can't be subtracted."""

from transformers import PreTrainedModel

from workbench.pairs.adapters import end_weights, head_is_tied, untuned_name
from workbench.pairs.guards.configuration import config_guards
from workbench.pairs.modules import attention_of
from workbench.pairs.report import Guard

_SHAPE_FIELDS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "key-value heads": ("num_key_value_heads",),
    "head width": ("head_dim",),
}


def structure_guards(base: PreTrainedModel, judge: PreTrainedModel) -> list[Guard]:
    """Compare architecture and shapes, which must agree, and configurations, which may differ but are said."""
    return [
        _architecture(base, judge),
        *(_shape(label, names, base, judge) for label, names in _SHAPE_FIELDS.items()),
        _tensor_shapes(base, judge),
        _attention(base, judge),
        _head_tie(base, judge),
        *config_guards(base.config, judge.config),
    ]


def _architecture(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    names = type(base).__name__, type(judge).__name__
    return Guard(
        name="architecture",
        status="ok" if names[0] == names[1] else "fail",
        value=names[0] if names[0] == names[1] else f"base {names[0]}, judge {names[1]}",
        detail="" if names[0] == names[1] else "Choose the model the judge was fine-tuned from as the base.",
    )


def _shape(label: str, names: tuple[str, ...], base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    values = [
        next((getattr(m.config, n) for n in names if getattr(m.config, n, None) is not None), None)
        for m in (base, judge)
    ]
    same = values[0] == values[1]
    return Guard(
        name=label,
        status="ok" if same else "fail",
        value=str(values[0] if values[0] is not None else "as the other shapes imply")
        if same
        else f"base {values[0]}, judge {values[1]}",
        detail="" if same else "Base and judge must share their shape; check that both belong together.",
    )


def _tensor_shapes(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    """Compare tensors by name; embedding and head may have other numbers of rows, packed weights have no such shape."""
    left, right = _shapes(base), _shapes(judge)
    other = [f"{n} {left[n]}, {right[n]}" for n in left if n in right and left[n] != right[n]]
    return Guard(
        name="tensor shapes",
        status="fail" if other else "ok",
        value=f"{len(other)} differ: {'; '.join(other[:3])}" if other else "same, vocabulary rows apart",
        detail="Base and judge must share their shape; check that both belong together." if other else "",
    )


def _shapes(module: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    rows = {id(weight) for weight in end_weights(module)}
    return {
        untuned_name(name): tuple(p.shape)
        for name, p in parameters.items()
        if p.is_floating_point() and id(p) not in rows
    }


def _attention(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    kinds = [attention_of(m) for m in (base, judge)]
    same = kinds[0] == kinds[1]
    return Guard(
        name="attention implementation",
        status="ok" if same else "fail",
        value=kinds[0] if same else f"base {kinds[0]}, judge {kinds[1]}",
        detail=""
        if same
        else "Load both with the same `attn_implementation`; kernels differ by more than small judges do.",
    )


def _head_tie(base: PreTrainedModel, judge: PreTrainedModel) -> Guard:
    ties = [head_is_tied(m) for m in (base, judge)]
    words = ["tied to the embedding" if tied else "a matrix of its own" for tied in ties]
    same = ties[0] == ties[1]
    return Guard(
        name="output head",
        status="ok" if same else "warn",
        value=words[0] if same else f"base {words[0]}, judge {words[1]}",
        detail="" if same else "The untied head is held against the other model's embedding, and counts on its own.",
    )
