"""Models with a classification head: every executor reads the head at every position, and padding never decides."""

import pytest
import torch

from tests.tiny_models import MATRIX, random_batch, tiny_classifier, tiny_model, tiny_tokenizer
from workbench.errors import ParameterError
from workbench.hooks import (
    Ablate,
    Anatomy,
    BridgeBackend,
    Component,
    HooksBackend,
    NNsightBackend,
    Site,
    Steer,
    doctor,
    head_kind,
)
from workbench.tokens import TokenBatch

TOLERANCE = 5e-5
LABELS = 3


@pytest.fixture(scope="module", params=MATRIX)
def lab(request):
    model = tiny_classifier(request.param, labels=LABELS)
    anatomy = Anatomy.of(model, tiny_tokenizer())
    return model, anatomy


def _everywhere(model, batch):
    """The head of plain Hugging Face at every position, without any of our code."""
    with torch.no_grad():
        return model.score(model.base_model(**batch.forward_kwargs(), use_cache=False).last_hidden_state)


def _gap(left, right, mask):
    return float((left - right)[mask].abs().max())


def test_three_executors_read_the_head_at_every_position(lab):
    model, anatomy = lab
    batch = random_batch()
    plain = _everywhere(model, batch)
    steer = Steer(Site(Component.RESID_PRE, 1), torch.randn(64, generator=torch.Generator().manual_seed(1)))
    edits = [steer, Ablate(Site(Component.Z, 1, 1))]
    hooks = HooksBackend(model, anatomy)
    edited = hooks.run(batch, edits=edits, logits="all").logits
    assert _gap(edited, plain, batch.mask) > 1e-2
    capture = [Site(Component.RESID_POST, 2), Site(Component.Z, 1)]
    seen = hooks.run(batch, capture=capture)
    nnsight = NNsightBackend(tiny_copy(model), anatomy, tokenizer=tiny_tokenizer())
    for backend in (hooks, nnsight, BridgeBackend(anatomy)):
        every = backend.run(batch, capture=capture, logits="all")
        assert every.logits.shape == (*batch.ids.shape, LABELS)
        assert _gap(every.logits, plain, batch.mask) < TOLERANCE
        last = backend.run(batch).logits
        torch.testing.assert_close(last, plain[:, -1], atol=TOLERANCE, rtol=0)
        assert _gap(backend.run(batch, edits=edits, logits="all").logits, edited, batch.mask) < TOLERANCE
        for site in capture:
            assert _gap(every.activations[site], seen.activations[site], batch.mask) < TOLERANCE
        stream = seen.activations[Site(Component.RESID_POST, 2)]
        again = backend.suffix(2, hooks.run(batch, capture=[Site(Component.RESID_PRE, 2)]).activations[
            Site(Component.RESID_PRE, 2)], batch, capture=capture[:1])  # fmt: skip
        torch.testing.assert_close(again.logits, last, atol=TOLERANCE, rtol=0)
        assert _gap(again.activations[capture[0]], stream, batch.mask) < TOLERANCE
        assert backend.run(batch, logits="none", capture=capture).logits is None
        assert backend.run(batch, stop_after=capture[1], capture=capture[1:]).logits is None


def tiny_copy(model):
    from workbench.hooks import weight_sharing_shadow

    return weight_sharing_shadow(model)


def test_a_batch_is_the_single_prompts_whatever_the_pad_id_is(lab):
    """Hugging Face's pooling looks for pad ids in the input; ours never does."""
    model, anatomy = lab
    hooks, batch = HooksBackend(model, anatomy), random_batch()
    alone = torch.cat([_everywhere(model, batch.row(i))[:, -1] for i in range(len(batch))])
    with torch.no_grad():
        padded = model(**batch.forward_kwargs()).logits
        torch.testing.assert_close(padded, alone, atol=TOLERANCE, rtol=0)
    own = model.config.pad_token_id
    try:
        for pad in (own, None, model.config.eos_token_id, int(batch.ids[1, -1])):
            model.config.pad_token_id = pad
            torch.testing.assert_close(hooks.run(batch).logits, alone, atol=TOLERANCE, rtol=0)
    finally:
        model.config.pad_token_id = own


def test_a_prompt_that_ends_in_the_pad_id_is_read_at_its_end():
    """pad == eos: the model's own pooling steps back to another token and says another score."""
    model = tiny_classifier("llama", labels=1)
    model.config.pad_token_id = model.config.eos_token_id
    row = [*random_batch().ids[1].tolist(), model.config.eos_token_id]
    batch = TokenBatch.from_rows([row], pad_id=model.config.eos_token_id)
    ours = HooksBackend(model, Anatomy.of(model)).run(batch).logits
    torch.testing.assert_close(ours, _everywhere(model, batch)[:, -1], atol=TOLERANCE, rtol=0)
    with torch.no_grad():
        theirs = model(**batch.forward_kwargs()).logits
    assert float((ours - theirs).abs().max()) > 1e-2


def test_the_doctor_passes_and_asks_the_models_own_pooling(lab):
    model, anatomy = lab
    checks = doctor.examine(model, tiny_tokenizer(), anatomy=anatomy)
    assert [(check.name, check.value) for check in checks if check.status != "ok"] == []
    assert len(checks) == 12
    assert "the head at the last token is the model's own score" in {check.name for check in checks}


def test_the_doctor_notices_a_model_that_reads_another_token(monkeypatch):
    model = tiny_classifier("llama")
    monkeypatch.setattr(type(model), "forward", _pools_first(type(model).forward))
    checks = doctor.examine(model, tiny_tokenizer())
    failed = [check for check in checks if check.status == "fail"]
    assert [check.name for check in failed] == ["the head at the last token is the model's own score"]


def _pools_first(own):
    def forward(self, input_ids, position_ids=None, **kwargs):
        out = own(self, input_ids, position_ids=position_ids, **kwargs)
        hidden = self.base_model(input_ids, position_ids=position_ids).last_hidden_state
        out.logits = self.score(hidden)[:, 0]
        return out

    return forward


def test_gradients_reach_captured_sites_through_the_head(lab):
    model, anatomy = lab
    site, batch = Site(Component.RESID_PRE, 1), random_batch()
    run = HooksBackend(model, anatomy).run(batch, capture=[site], grad=True)
    (slope,) = torch.autograd.grad(run.logits[:, 0].sum(), run.activations[site])
    assert float(slope[batch.mask].abs().max()) > 0


def test_nothing_stays_behind_when_a_run_breaks_off(monkeypatch):
    model = tiny_classifier("llama")
    hooks = HooksBackend(model, Anatomy.of(model))

    def broken(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model.norm, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        hooks.run(random_batch())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())


def test_a_head_writes_no_text(lab):
    model, anatomy = lab
    executors = [HooksBackend(model, anatomy), BridgeBackend(anatomy)]
    executors.append(NNsightBackend(tiny_copy(model), anatomy, tokenizer=tiny_tokenizer()))
    for executor in executors:
        with pytest.raises(ParameterError, match="scores text and writes none"):
            executor.generate(random_batch(), max_new_tokens=2)


def test_kinds_of_heads_are_told_apart():
    assert head_kind(tiny_model("gpt2")) == "language model"
    assert head_kind(tiny_classifier("gpt2")) == "classification"
