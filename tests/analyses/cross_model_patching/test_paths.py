"""Single paths against hooks of our own, in float64, and against what must be equal or exactly 0."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn

from analyses.cross_model_patching.paths.tracing import check_rows, trace
from analyses.cross_model_patching.paths.writes import Writes, changes, inputs_of, opened, senders_of, upstream
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.readout import LabelGap, frozen_readout
from tests.tiny_models import random_batch, tiny_model
from workbench.errors import ParameterError
from workbench.hooks import Anatomy, Component, HooksBackend, Site
from workbench.hooks.suffix import Row, Write
from workbench.pairs import tiny as tiny_pairs
from workbench.tokens import TokenBatch

VERDICT = VerdictIds((5,), (9,))
WIDTH, HEADS, KV = 32, 4, 2
D = WIDTH // HEADS


def _backend(model):
    return HooksBackend(model, Anatomy.of(model))


@pytest.fixture(scope="module")
def models():
    """Return a base and a judge that differ everywhere, four blocks, in float64."""
    base = tiny_pairs.tiny_model(n_layers=4, width=WIDTH).double()
    judge = tiny_pairs.tuned_copy(base, change=tiny_pairs.scaled_noise(0.2), seed=1)
    return _backend(base), _backend(judge)


@pytest.fixture(scope="module")
def batch():
    """Return two prompts of unequal length."""
    return TokenBatch.from_rows([[1, 44, 7, 90, 13, 200, 31, 8, 55], [1, 17, 250, 66, 5, 101]], pad_id=0)


@pytest.fixture(scope="module")
def opened_pair(models, batch):
    """Return both models run once, their writes, and what the judge's add in the base."""
    base, judge = (opened(model, batch) for model in models)
    own, given = Writes.of(base), Writes.of(judge)
    senders = senders_of(base.executor.anatomy, "heads+mlps")
    return base, judge, changes(base, own, given, senders)


class _Plain:
    """Path patching as one would write it down: a forward of the whole prompts for everything."""

    def __init__(self, base, judge, batch):
        self.base, self.batch = base, batch
        self.clean, self.given = self._run(base), self._run(judge)
        self.weights = [m.model.layers for m in (base, judge)]

    def _run(self, model, *, add=None, hold=None, put=None):
        """Return last-token activations; ``add`` and ``hold`` by module of a block, ``put`` by projection and rows."""
        seen: dict = {}
        with ExitStack() as stack, torch.no_grad():
            for layer, block in enumerate(model.model.layers):
                stack.callback(block.self_attn.o_proj.register_forward_pre_hook(self._keep(seen, ("z", layer))).remove)
                for name, module in self._named(block):
                    stack.callback(
                        module.register_forward_hook(
                            self._edit(seen, (name, layer), add or {}, hold or {}, put or {})
                        ).remove
                    )
            logits = model(**self.batch.forward_kwargs()).logits[:, -1]
        seen["margin"] = logits[:, 5] - logits[:, 9]
        return seen

    @staticmethod
    def _named(block):
        attention = block.self_attn
        return [
            ("q", attention.q_proj),
            ("k", attention.k_proj),
            ("v", attention.v_proj),
            ("attn", attention),
            ("mlp", block.mlp),
        ]

    @staticmethod
    def _keep(seen, key):
        def hook(_module, args):
            seen[key] = args[0][:, -1].clone()

        return hook

    @staticmethod
    def _edit(seen, key, add, hold, put):
        def hook(_module, _args, output):
            value = (output[0] if isinstance(output, tuple) else output).clone()
            if key in hold:
                value[:, -1] = hold[key]
            if key in add:
                value[:, -1] += add[key]
            if key in put:
                rows, new = put[key]
                value[:, -1, rows] = new
            seen[key] = value[:, -1].clone()
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    def change(self, sender):
        if sender.head is None:
            return self.given["mlp", sender.layer] - self.clean["mlp", sender.layer]
        rows = slice(sender.head * D, (sender.head + 1) * D)
        written = []
        for layers, seen in zip(self.weights, (self.clean, self.given), strict=True):
            weight = layers[sender.layer].self_attn.o_proj.weight[:, rows]
            written.append(seen["z", sender.layer][:, rows] @ weight.detach().T)
        return written[1] - written[0]

    def first(self, sender, *, mlps=False, live=None):
        name = "attn" if sender.head is not None else "mlp"
        hold = {("attn", m): self.clean["attn", m] for m in range(sender.layer + 1, 4)}
        if mlps:
            start = sender.layer + (sender.head is None)
            hold |= {("mlp", m): self.clean["mlp", m] for m in range(start, 4) if m != live}
        return self._run(self.base, add={(name, sender.layer): self.change(sender)}, hold=hold)

    def total(self, sender):
        name = "attn" if sender.head is not None else "mlp"
        return self._run(self.base, add={(name, sender.layer): self.change(sender)})["margin"] - self.clean["margin"]

    def through(self, sender, receiver, *, mlps=False):
        name = receiver.component.value.removesuffix("_out")
        live = receiver.layer if name == "mlp" else None
        recorded = self.first(sender, mlps=mlps, live=live)[name, receiver.layer]
        rows = slice(None) if receiver.head is None else slice(receiver.head * D, (receiver.head + 1) * D)
        put = {(name, receiver.layer): (rows, recorded[:, rows])}
        return self._run(self.base, put=put)["margin"] - self.clean["margin"]


@pytest.fixture(scope="module")
def plain(models, batch):
    """Return the slow way."""
    return _Plain(models[0].module, models[1].module, batch)


def test_direct_paths_and_totals_are_those_of_plain_hooks(opened_pair, plain):
    base, _, change = opened_pair
    for frozen in ("attention", "attention+mlp"):
        found = trace(base, change, [None], VERDICT, frozen=frozen, total=True)
        for k, sender in enumerate(change):
            assert torch.allclose(change[sender], plain.change(sender), atol=1e-13)
            direct = plain.first(sender, mlps=frozen != "attention")["margin"] - plain.clean["margin"]
            np.testing.assert_allclose(found.along[:, 0, k], direct.numpy(), atol=1e-12)
            np.testing.assert_allclose(found.total[:, k], plain.total(sender).numpy(), atol=1e-12)
    assert np.abs(found.total).min() > 1e-6


@pytest.mark.parametrize("frozen", ["attention", "attention+mlp"])
def test_paths_through_queries_keys_values_and_mlps_are_those_of_plain_hooks(opened_pair, plain, frozen):
    base, _, change = opened_pair
    receivers = [
        Site(Component.Q, 3, 1),
        Site(Component.K, 2, 1),
        Site(Component.V, 3, 0),
        Site(Component.MLP_OUT, 2),
        Site(Component.MLP_OUT, 3),
    ]
    found = trace(base, change, receivers, VERDICT, frozen=frozen)
    moved = 0
    for r, receiver in enumerate(receivers):
        for s, sender in enumerate(change):
            if not upstream(base.executor.anatomy, sender, receiver):
                assert not found.along[:, r, s].any()
                continue
            truth = plain.through(sender, receiver, mlps=frozen != "attention").numpy()
            np.testing.assert_allclose(found.along[:, r, s], truth, atol=1e-12)
            moved += np.abs(truth).max() > 1e-6
    assert moved > 20


def test_with_everything_held_a_direct_path_is_the_direct_contribution_at_the_norms_new_scale(opened_pair):
    base, _, change = opened_pair
    found = trace(base, change, [None], VERDICT, frozen="attention+mlp").along[:, 0]
    module, last = base.executor.module, base.columns(1)
    final = base.executor.run(base.batch, capture=[Site(Component.RESID_POST, 3)], positions=last).activations
    stream = final[Site(Component.RESID_POST, 3)][:, 0]
    linear = frozen_readout(module.model.norm, module.lm_head, stream, readout=LabelGap(5, 9))
    size = stream.square().mean(-1).sqrt()
    for k, moved in enumerate(change.values()):
        rescaled = (stream + moved).square().mean(-1).sqrt() / size
        contribution = (linear.direction * moved).sum(-1).numpy()
        there = (found[:, k] + linear.gap.numpy()) * rescaled.numpy() - linear.gap.numpy()
        # The norm's epsilon isn't rescaled.
        np.testing.assert_allclose(there, contribution, atol=1e-5)


def test_the_last_blocks_writes_have_no_path_but_the_direct_one(opened_pair):
    base, _, change = opened_pair
    last = {sender: moved for sender, moved in change.items() if sender.layer == 3}
    found = trace(base, last, [None], VERDICT, total=True)
    np.testing.assert_allclose(found.along[:, 0], found.total, atol=1e-12)
    early = trace(base, {s: m for s, m in change.items() if s.layer == 0}, [None], VERDICT, total=True)
    assert np.abs(early.along[:, 0] - early.total).max() > 1e-3


def test_a_model_against_itself_gives_exactly_nothing(models, batch):
    base = opened(models[0], batch)
    twin = opened(models[0], batch)
    change = changes(base, Writes.of(base), Writes.of(twin), senders_of(models[0].anatomy, "heads+mlps"))
    found = trace(base, change, [None, Site(Component.Q, 3, 0), Site(Component.MLP_OUT, 2)], VERDICT, total=True)
    assert not found.along.any() and not found.total.any()


def test_only_the_head_whose_output_weights_changed_sends_from_its_block(models, batch):
    base = models[0].module

    def change(name, parameter, generator):
        moved = torch.zeros_like(parameter)
        if name.endswith("layers.1.self_attn.o_proj.weight"):
            moved[:, 2 * D : 3 * D] = 0.3 * torch.randn(WIDTH, D, generator=generator, dtype=parameter.dtype)
        return moved

    judge = _backend(tiny_pairs.tuned_copy(base, change=change))
    runs = [opened(model, batch) for model in (models[0], judge)]
    moved = changes(runs[0], Writes.of(runs[0]), Writes.of(runs[1]), senders_of(models[0].anatomy, "heads+mlps"))
    found = trace(runs[0], moved, [None], VERDICT).along[:, 0]
    for k, sender in enumerate(moved):
        if sender.layer < 1 or (
            sender.layer == 1 and sender not in (Site(Component.Z, 1, 2), Site(Component.MLP_OUT, 1))
        ):
            assert not found[:, k].any(), sender
    assert np.abs(found[:, list(moved).index(Site(Component.Z, 1, 2))]).min() > 1e-4


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "neox", "qwen3"])
def test_where_only_patterns_and_values_moved_a_heads_write_is_its_z_in_every_architecture(architecture):
    model = tiny_model(architecture).double()
    fused = ("c_attn", "query_key_value", "q_proj", "v_proj")

    def change(name, parameter, generator):
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return 0.1 * noise if any(part in name for part in fused) else torch.zeros_like(parameter)

    judge = tiny_pairs.tuned_copy(model, change=change)
    # Eager attention in float64 takes no padding.
    batch = random_batch((9, 9))
    base, other = (opened(_backend(m), batch) for m in (model, judge))
    anatomy = base.executor.anatomy
    heads = senders_of(anatomy, "heads")
    change_of = changes(base, Writes.of(base), Writes.of(other), heads)
    found = trace(base, change_of, [None, Site(Component.Q, 2, 1)], VERDICT, total=True)
    columns = base.columns(1)
    rows = [Row((Write(site, columns, other.clean(site, columns)),)) for site in heads]
    ran = base.run(rows, ids=VERDICT.ids)
    truth = (VERDICT.margin(ran.logits) - VERDICT.margin(ran.null)).numpy()
    np.testing.assert_allclose(found.total, truth, atol=1e-9)
    assert np.abs(truth).max() > 1e-4
    assert check_rows(base, change_of, VERDICT, frozen="attention", seed=0) < 1e-9


def test_rows_run_the_plain_way_give_the_same(models, batch, opened_pair):
    base, _, change = opened_pair
    slow = opened(models[0], batch, mode="plain")
    receivers = [None, Site(Component.Q, 2, 0), Site(Component.MLP_OUT, 3)]
    fast = trace(base, change, receivers, VERDICT).along
    np.testing.assert_allclose(trace(slow, change, receivers, VERDICT).along, fast, atol=1e-12)


def test_who_sends_to_whom():
    anatomy = Anatomy.of(tiny_pairs.tiny_model(n_layers=2))
    head, mlp = Site(Component.Z, 1, 3), Site(Component.MLP_OUT, 1)
    assert inputs_of(anatomy, head) == (Site(Component.Q, 1, 3), Site(Component.K, 1, 1), Site(Component.V, 1, 1))
    assert inputs_of(anatomy, mlp) == (mlp,)
    assert upstream(anatomy, head, mlp) and not upstream(anatomy, mlp, mlp)
    assert not upstream(anatomy, head, Site(Component.Q, 1, 0)) and upstream(anatomy, head, None)
    with pytest.raises(ParameterError, match="no such senders"):
        senders_of(anatomy, "neurons")
    parallel = Anatomy.of(tiny_model("neox"))
    assert not upstream(parallel, head, mlp)


def test_an_attention_output_that_is_no_projection_is_refused(models, batch):
    base = opened(models[0], batch)
    writes, layer = Writes.of(base), models[0].module.model.layers[1].self_attn
    forward = layer.o_proj.forward
    layer.o_proj.forward = lambda z: forward(z) + 1.0
    try:
        with pytest.raises(ParameterError, match="output projection"):
            changes(base, writes, writes, [Site(Component.Z, 1, 0)])
    finally:
        layer.o_proj.forward = forward
    assert isinstance(layer.o_proj, nn.Linear)
