"""What a run refuses, what it saves, and what it leaves behind: nothing."""

import threading

import pytest
import torch

from tests.tiny_models import random_batch, tiny_model
from workbench.errors import EditError, ParameterError, UnknownSite
from workbench.hooks import (
    Ablate,
    Anatomy,
    Component,
    Custom,
    HooksBackend,
    NNsightBackend,
    Patch,
    Scale,
    Site,
    Steer,
    module_lock,
)
from workbench.tokens import TokenBatch

C = Component
STREAM = Site(C.RESID_PRE, 1)


@pytest.fixture(scope="module")
def fresh():
    """A model only torch hooks have ever touched."""
    model = tiny_model("llama")
    return HooksBackend(model, Anatomy.of(model))


def _hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def _overridden(model):
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


class Trip(Exception):
    pass


def _trip(_value):
    raise Trip


@pytest.mark.parametrize("how", ["run", "suffix", "generate"])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_after_an_exception(fresh, how, training):
    batch, model = random_batch(), fresh.module
    before = fresh.run(batch, logits="all").logits
    model.train(training)
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    edits = [Scale(Site(C.ATTN_OUT, 1), 2.0), Custom(Site(C.MLP_OUT, 2), _trip, "trip")]
    with pytest.raises(Trip):
        if how == "run":
            fresh.run(batch, edits=edits, capture=[STREAM], grad=True)
        elif how == "suffix":
            fresh.suffix(1, torch.zeros(*batch.ids.shape, 64), batch, edits=edits)
        else:
            fresh.generate(batch, edits=edits, max_new_tokens=2)
    assert _hook_count(model) == 0
    assert _overridden(model) == []
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    model.eval()
    assert torch.equal(fresh.run(batch, logits="all").logits, before)


def test_nnsight_stays_usable_after_an_exception(llama):
    before = llama.nnsight.run(llama.batch, logits="all").logits
    with pytest.raises(Trip):
        llama.nnsight.run(llama.batch, edits=[Custom(STREAM, _trip, "trip")])
    assert torch.equal(llama.nnsight.run(llama.batch, logits="all").logits, before)
    assert torch.equal(llama.hooks.run(llama.batch, logits="all").logits, before)


def test_a_training_model_is_run_without_dropout_and_handed_back_in_training():
    model = tiny_model("gpt2").train()
    assert model.transformer.drop.p > 0
    backend, batch = HooksBackend(model, Anatomy.of(model)), random_batch()
    assert torch.equal(backend.run(batch).logits, backend.run(batch).logits)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("backend", ["hooks", "nnsight", "lens"])
def test_an_edit_that_changes_nothing_is_an_error(llama, backend):
    executor = getattr(llama, backend)
    own = executor.run(llama.batch, capture=[STREAM]).activations[STREAM]
    for edit in (Patch(STREAM, own), Scale(STREAM, 1.0), Steer(STREAM, torch.zeros(64))):
        with pytest.raises(EditError, match="changed nothing"):
            executor.run(llama.batch, edits=[edit])
    # Different on padding only: no real token sees it.
    elsewhere = torch.where(llama.batch.mask[..., None], own, own + 1)
    with pytest.raises(EditError, match="changed nothing"):
        executor.run(llama.batch, edits=[Patch(STREAM, elsewhere)])
    executor.run(llama.batch, edits=[Patch(STREAM, own)], check_edits=False)


@pytest.mark.parametrize("backend", ["hooks", "nnsight", "lens"])
def test_an_edit_that_is_never_reached_is_an_error(llama, backend):
    with pytest.raises(EditError, match="outside the part"):
        getattr(llama, backend).run(llama.batch, edits=[Ablate(Site(C.Z, 2))], stop_after=STREAM)
    with pytest.raises(ParameterError, match="outside the part"):
        getattr(llama, backend).run(llama.batch, capture=[Site(C.Z, 2)], stop_after=STREAM)


def test_an_edit_whose_hook_did_not_fire_is_an_error(fresh):
    """A block that calls its own method instead of its submodule would skip the hook."""
    layer = fresh.module.model.layers[1]
    layer.mlp.__dict__["forward"] = None
    own = type(layer).forward
    try:
        type(layer).forward = lambda self, hidden_states, **kwargs: hidden_states
        with pytest.raises(EditError, match="never reached"):
            fresh.run(random_batch(), edits=[Ablate(Site(C.MLP_OUT, 1))])
    finally:
        type(layer).forward = own
        del layer.mlp.__dict__["forward"]


@pytest.mark.parametrize(
    "site", [Site(C.RESID_PRE, 3), Site(C.Z, 0, 4), Site(C.K, 0, 2), Site(C.RESID_MID, 99)], ids=str
)
def test_sites_are_checked_before_anything_runs(llama, site):
    for backend in (llama.hooks, llama.nnsight, llama.lens):
        with pytest.raises(UnknownSite, match=str(site).split(".h")[0]):
            backend.run(llama.batch, capture=[site])
        with pytest.raises(UnknownSite):
            backend.run(llama.batch, edits=[Ablate(site)])


def test_tensors_of_another_shape_are_refused_with_both_shapes(llama):
    wrong = torch.zeros(3, 19, 32)
    for edit in (Patch(STREAM, wrong), Steer(STREAM, torch.zeros(32)), Patch(Site(C.Z, 1), torch.zeros(3, 19, 64))):
        with pytest.raises(EditError, match=r"\(3, 19, "):
            llama.hooks.run(llama.batch, edits=[edit])
    with pytest.raises(EditError, match="another shape"):
        llama.hooks.suffix(1, wrong, llama.batch)
    with pytest.raises(EditError, match="fn"):
        llama.hooks.run(llama.batch, edits=[Custom(STREAM, lambda value: value[:, 1:], "cut")])


@pytest.mark.parametrize(
    ("positions", "problem"),
    [
        (torch.tensor([[19]] * 3), "outside the batch"),
        (torch.tensor([[-20]] * 3), "outside the batch"),
        (torch.tensor([[0]] * 3), "padding"),
        (torch.tensor([[18]] * 2), "integers of shape"),
    ],
)
def test_columns_are_checked(llama, positions, problem):
    with pytest.raises(ParameterError, match=problem):
        llama.hooks.run(llama.batch, capture=[STREAM], positions=positions)
    with pytest.raises(ParameterError, match=problem):
        llama.hooks.run(llama.batch, edits=[Scale(STREAM, 2.0, positions)])


@pytest.mark.parametrize("positions", [torch.tensor([18, 18, 18]), torch.tensor([[18.0]] * 3)], ids=["flat", "float"])
def test_columns_of_another_kind_are_refused(llama, positions):
    with pytest.raises((ParameterError, TypeError)):  # a TypeError where annotations are checked at run time
        llama.hooks.run(llama.batch, capture=[STREAM], positions=positions)


def test_a_column_named_twice_is_ambiguous_for_edits_and_gradients_only(llama):
    twice = torch.tensor([[-1, 18]] * 3)
    got = llama.hooks.run(llama.batch, capture=[STREAM], positions=twice).activations[STREAM]
    assert torch.equal(got[:, 0], got[:, 1])
    with pytest.raises(ParameterError, match="twice"):
        llama.hooks.run(llama.batch, capture=[STREAM], positions=twice, grad=True)
    with pytest.raises(ParameterError, match="twice"):
        llama.hooks.run(llama.batch, edits=[Scale(STREAM, 2.0, twice)])


@pytest.mark.parametrize("backend", ["hooks", "nnsight", "lens"])
def test_positions_keep_only_the_named_columns(llama, backend):
    columns = torch.tensor([[-1, 8], [0, 18], [6, -2]])
    executor = getattr(llama, backend)
    sites = [STREAM, Site(C.Z, 1), Site(C.Q, 2, 3)]
    whole = executor.run(llama.batch, capture=sites).activations
    kept = executor.run(llama.batch, capture=sites, positions=columns).activations
    for site in sites:
        expected = torch.stack([whole[site][row, columns[row]] for row in range(3)])
        assert torch.equal(kept[site], expected)
        assert kept[site].untyped_storage().nbytes() == expected.nbytes
    assert torch.equal(kept.positions, columns % 19)


def test_a_captured_head_does_not_keep_the_whole_component_alive(llama):
    got = llama.hooks.run(llama.batch, capture=[Site(C.Z, 1, 2)]).activations[Site(C.Z, 1, 2)]
    assert got.untyped_storage().nbytes() == got.nbytes


def test_edits_at_columns_leave_every_other_column_bit_equal(llama):
    columns = torch.tensor([[-1]] * 3)
    site = Site(C.RESID_POST, 2)
    before = llama.hooks.run(llama.batch, capture=[site]).activations[site]
    after = llama.hooks.run(llama.batch, capture=[site], edits=[Scale(site, 3.0, columns)]).activations[site]
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert torch.equal(after[:, -1], 3 * before[:, -1])


def test_edits_at_one_site_apply_in_the_order_given(llama):
    up, double = Steer(STREAM, torch.ones(64)), Scale(STREAM, 2.0)
    start = llama.hooks.run(llama.batch, capture=[STREAM]).activations[STREAM]
    for backend in (llama.hooks, llama.nnsight, llama.lens):
        first = backend.run(llama.batch, edits=[up, double], capture=[STREAM]).activations[STREAM]
        second = backend.run(llama.batch, edits=[double, up], capture=[STREAM]).activations[STREAM]
        assert llama.gap(first, 2 * (start + 1)) < 1e-5
        assert llama.gap(second, 2 * start + 1) < 1e-5


@pytest.mark.parametrize("backend", ["hooks", "nnsight"])
def test_stopping_early_saves_the_blocks_above(llama, backend):
    ran = []
    blocks = llama.model.model.layers
    handles = [blocks[i].register_forward_hook(lambda *_, i=i: ran.append(i)) for i in range(3)]
    executor = getattr(llama, backend)
    try:
        run = executor.run(llama.batch, capture=[STREAM], stop_after=Site(C.ATTN_OUT, 1))
        assert ran == [0]
        assert run.logits is None
        ran.clear()
        executor.run(llama.batch, capture=[Site(C.RESID_POST, 0)], logits="none")
        assert set(ran) <= {0}
        ran.clear()
        executor.suffix(2, torch.zeros(3, 19, 64), llama.batch)
        assert ran[-1] == 2
    finally:
        for handle in handles:
            handle.remove()


def test_lower_blocks_do_no_work_in_a_suffix(llama):
    ran = []
    handles = [llama.model.model.layers[i].mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i in range(3)]
    try:
        for backend in (llama.hooks, llama.nnsight):
            ran.clear()
            backend.suffix(2, torch.zeros(3, 19, 64), llama.batch)
            assert ran == [2]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("cut", [True, False], ids=["logits_to_keep", "hooked unembedding"])
def test_the_last_logits_are_computed_alone(llama, cut, monkeypatch):
    if not cut:
        monkeypatch.setattr("workbench.hooks.executor.forward_accepts", lambda module, name: name == "position_ids")
        monkeypatch.setattr("workbench.hooks.torch_backend.forward_accepts", lambda module, name: False)
        monkeypatch.setattr("workbench.hooks.nnsight_backend.forward_accepts", lambda module, name: False)
    widths = []
    handle = llama.model.lm_head.register_forward_hook(lambda _m, _a, out: widths.append(out.shape[1]))
    try:
        for backend in (llama.hooks, llama.nnsight):
            assert torch.equal(backend.run(llama.batch).logits, llama.logits[:, -1])
    finally:
        handle.remove()
    assert widths == [1, 1]


def test_padding_is_refused_where_positions_can_not_be_told(llama, monkeypatch):
    monkeypatch.setattr("workbench.hooks.executor.forward_accepts", lambda module, name: name != "position_ids")
    with pytest.raises(ParameterError, match="position ids"):
        llama.hooks.run(llama.batch)
    assert llama.hooks.run(llama.batch.row(0)).logits.shape == (1, 320)


def test_an_unknown_choice_of_logits_is_refused(llama):
    with pytest.raises((ParameterError, TypeError), match="last"):  # a TypeError where annotations are checked
        llama.hooks.run(llama.batch, logits="some")


def test_prompt_edits_act_on_the_prompt_only_and_stream_edits_on_every_token(llama):
    seen = []

    def spy(value):
        seen.append(value.shape[1])
        return value + 1

    llama.hooks.generate(llama.batch, edits=[Custom(STREAM, spy, "spy")], max_new_tokens=3)
    assert seen == [19, 1, 1]
    seen.clear()
    llama.hooks.generate(llama.batch, edits=[Custom(STREAM, spy, "spy", torch.tensor([[-1]] * 3))], max_new_tokens=3)
    assert seen == [1]


@pytest.mark.parametrize("backend", ["hooks", "nnsight", "lens"])
def test_a_generation_may_end_early_and_sampling_leaves_the_random_state(llama, backend):
    executor = getattr(llama, backend)
    single = llama.batch.row(0)
    free = executor.generate(single, max_new_tokens=5)[0]
    state = torch.random.get_rng_state()
    short = executor.generate(single, max_new_tokens=5, eos_token_id=int(free[13]), edits=[Scale(STREAM, 1.0001)])
    assert short.shape[1] <= 14
    executor.generate(single, max_new_tokens=2, do_sample=True)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_remote_programs_survive_the_journey(llama):
    if hasattr(HooksBackend.run, "__wrapped__"):
        pytest.skip("functions wrapped by a run-time type checker can't be serialised")
    remote = NNsightBackend(llama.model, llama.anatomy, tokenizer=llama.tokenizer, remote="local")
    edits = [Steer(STREAM, torch.ones(64)), Ablate(Site(C.Z, 1, 1))]
    ours = llama.hooks.run(llama.batch, edits=edits, capture=[STREAM], logits="all")
    theirs = remote.run(llama.batch, edits=edits, capture=[STREAM], logits="all")
    assert torch.equal(theirs.logits, ours.logits)
    assert torch.equal(theirs.activations[STREAM], ours.activations[STREAM])
    with pytest.raises(ParameterError, match="remote"):
        NNsightBackend(llama.model, llama.anatomy, tokenizer=llama.tokenizer, remote="https://example.org")


def test_nnsight_neither_mounts_save_nor_changes_the_tokenizer(llama):
    assert not hasattr(5, "save")
    assert llama.tokenizer.padding_side == "right"


def test_threads_take_turns_on_one_model(fresh):
    batch, expected, wrong = random_batch(), {}, []
    for factor in (0.5, 2.0, 3.0):
        expected[factor] = fresh.run(batch, edits=[Scale(STREAM, factor)]).logits

    def work(factor):
        for _ in range(5):
            if not torch.equal(fresh.run(batch, edits=[Scale(STREAM, factor)]).logits, expected[factor]):
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(factor,)) for factor in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert module_lock(fresh.module) is module_lock(fresh.module)


def test_values_that_need_a_gradient_get_one(llama):
    vector = torch.zeros(64, requires_grad=True)
    run = llama.hooks.run(llama.batch, edits=[Steer(STREAM, vector)], grad=True, check_edits=False)
    (grad,) = torch.autograd.grad(run.logits[:, 5].sum(), [vector])
    step = 1e-2 * grad / grad.norm()
    up, down = (llama.hooks.run(llama.batch, edits=[Steer(STREAM, sign * step)]).logits[:, 5].sum() for sign in (1, -1))
    assert float(up - down) / 2 == pytest.approx(float(grad @ step), rel=2e-2)


def test_a_batch_of_one_token_runs(llama):
    one = TokenBatch.from_rows([[7]], pad_id=0)
    for backend in (llama.hooks, llama.nnsight, llama.lens):
        assert backend.run(one, edits=[Scale(STREAM, 2.0)], capture=[STREAM]).activations[STREAM].shape == (1, 1, 64)
    edited = llama.hooks.generate(one, edits=[Scale(STREAM, 2.0, torch.tensor([[0]]))], max_new_tokens=2)
    assert torch.equal(
        llama.nnsight.generate(one, edits=[Scale(STREAM, 2.0, torch.tensor([[0]]))], max_new_tokens=2), edited
    )
