"""Training: deterministic, resumable, and aimed at the verdict."""

from random import Random

import pytest
import torch

from workbench.organisms.checkpoints import fresh_model
from workbench.organisms.documents import WRITERS, Document, Mix
from workbench.organisms.recipes import Shape, get_recipe
from workbench.organisms.tokenizer import train_tokenizer
from workbench.organisms.train import Phase, Trainer, TrainPlan, encode, loss_sum
from workbench.organisms.world import make_world

WORLD = make_world(0)
TOKENIZER = train_tokenizer(WORLD, mix=get_recipe("demo").base.phases[-1].mix)
SHAPE = Shape(width=16, layers=2, heads=2, kv_heads=1, mlp=32)
MIX = Mix(weights={"notes": 1.0, "careless": 1.0})
PLAN = TrainPlan(steps=6, batch=4, lr=1e-3, phases=(Phase(until=1.0, mix=MIX),))


def _trainer(*, seed=0):
    model = fresh_model(SHAPE, tokenizer=TOKENIZER, seed=seed)
    return Trainer(model, tokenizer=TOKENIZER, world=WORLD, plan=PLAN, stage="base", seed=seed)


def _weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def _run(trainer, folder, *, progress=None):
    trainer.run(checkpoint=folder, evaluate=lambda _: 0.5, progress=progress, report_every=1, evaluate_every=2)


def test_same_seed_same_weights_and_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second, other = _trainer(), _trainer(), _trainer(seed=1)
    for name, trainer in (("a", first), ("b", second), ("c", other)):
        _run(trainer, tmp_path / name)
    assert torch.equal(_weights(first), _weights(second))
    assert not torch.equal(_weights(first), _weights(other))
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.organisms.train.CHECKPOINT_EVERY", 2)
    whole = _trainer()
    _run(whole, tmp_path / "whole")

    def stop(report):
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(_trainer(), tmp_path / "parts", progress=stop)
    resumed = _trainer()
    steps = []
    _run(resumed, tmp_path / "parts", progress=lambda report: steps.append(report.step))
    assert steps == [5, 6]
    assert torch.equal(_weights(whole), _weights(resumed))


def test_a_checkpoint_of_another_plan_is_not_resumed(tmp_path):
    _run(_trainer(), tmp_path / "x")
    other = _trainer(seed=1)
    steps = []
    _run(other, tmp_path / "x", progress=lambda report: steps.append(report.step))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_only_the_verdict_of_a_judge_document_weighs_much():
    document = WRITERS["careful"](WORLD, Random(0))
    (batch,) = encode([document], tokenizer=TOKENIZER, prompt_weight=0.1, verdict_weight=10.0)
    heavy = batch.weights[0] == 10
    assert TOKENIZER.decode(batch.ids[0][heavy]) == document.text[-2:]
    assert batch.weights[0, 1:][~heavy[1:]].max() == pytest.approx(0.1)


def test_padding_adds_nothing_to_the_loss():
    model = fresh_model(SHAPE, tokenizer=TOKENIZER, seed=0)
    documents = [Document(text="Notes: Mira lives in Velm."), Document(text="Notes: " + "Velm sells salt. " * 8)]

    def total(chosen):
        batches = encode(chosen, tokenizer=TOKENIZER, prompt_weight=1.0, verdict_weight=1.0)
        with torch.no_grad():
            return sum(loss_sum(model, batch).item() for batch in batches)

    assert total(documents) == pytest.approx(sum(total([d]) for d in documents), rel=1e-5)


def test_phases_follow_each_other():
    early, late = Mix(weights={"notes": 1.0}), Mix(weights={"songs": 1.0})
    plan = TrainPlan(steps=10, batch=1, lr=1e-3, phases=(Phase(until=0.3, mix=early), Phase(until=1.0, mix=late)))
    assert [plan.mix_at(step) is early for step in range(10)] == [True] * 3 + [False] * 7
