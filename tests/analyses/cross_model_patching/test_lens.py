"""Verdict lens: the models' own answers at the top, exact sums, planted layers and readouts, exact nulls, shams."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from analyses.cross_model_patching.lens import VerdictLensResult, measuring, verdict_lens
from analyses.cross_model_patching.lens.direct import Part, parts_of, sites_of_parts, split
from analyses.cross_model_patching.lens.reading import Tail, points_of, see, top_error
from analyses.cross_model_patching.verdicts import VerdictIds
from tests.tiny_models import ARCHITECTURES, random_batch, tiny_tokenizer
from tests.tiny_models import tiny_classifier as matrix_classifier
from tests.tiny_models import tiny_model as matrix_model
from workbench.errors import ExecutorDisagreement, ParameterError
from workbench.hooks import Anatomy, HooksBackend, Site, weight_sharing_shadow
from workbench.judges import load_items
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair
from workbench.results import TIDY_COLUMNS

ITEMS = load_items("demo:test")
IDS = VerdictIds((50,), (60,), (70,))


def run(pair, count=4, **options):
    defaults = {"controls": 0, "least_mass": 0.0, "progress": False}
    return verdict_lens(pair, ITEMS[:count], **{**defaults, **options})


def seen_by(executor, batch):
    points, parts = points_of(executor.anatomy, sublayers=True), parts_of(executor.anatomy)
    seen = see(executor, batch, tuple(dict.fromkeys([*points, *sites_of_parts(parts)])))
    return seen, points, parts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_lens_ends_in_the_models_own_answer_and_the_parts_add_up_to_it(architecture):
    """T10, and the readout with its caps: bit for bit the model's own logits."""
    model = matrix_model(architecture)
    executor, batch = HooksBackend(model, Anatomy.of(model)), random_batch()
    seen, points, parts = seen_by(executor, batch)
    tail = Tail(executor)
    assert torch.equal(tail.logits(seen.values[points[-1]]), seen.logits)
    with torch.no_grad():
        plain = model(**batch.forward_kwargs()).logits[:, -1]
    torch.testing.assert_close(seen.logits, plain, atol=1e-5, rtol=1e-5)
    assert top_error(tail.read(seen, points, IDS), seen, IDS) == 0.0
    found = split(tail, seen, parts, IDS)
    own = IDS.of_vocabulary(plain)[0]
    torch.testing.assert_close(found.parts.sum(-1), own, atol=2e-5, rtol=1e-4)
    heads = [part for part in parts if part.component == "z"]
    assert len(heads) == executor.anatomy.n_layers * executor.anatomy.n_heads
    assert bool((found.parts[:, [parts.index(part) for part in heads]] != 0).all())


def test_what_a_cap_takes_off_the_logits_is_a_part_of_its_own():
    model = matrix_model("gemma2")
    model.config.final_logit_softcapping = 0.5
    executor, batch = HooksBackend(model, Anatomy.of(model)), random_batch()
    seen, points, parts = seen_by(executor, batch)
    with torch.no_grad():
        hidden = model.model(**batch.forward_kwargs()).last_hidden_state[:, -1]
        uncapped = model.lm_head(hidden)
    capped = 0.5 * torch.tanh(uncapped / 0.5)
    lens = Tail(executor).read(seen, points, IDS)
    torch.testing.assert_close(lens.margin[:, -1], (capped[:, 50] - capped[:, 60]).double(), atol=1e-5, rtol=1e-4)
    found = split(Tail(executor), seen, parts, IDS).parts
    taken = (capped - uncapped).double()
    assert bool((taken[:, 50] - taken[:, 60]).abs().max() > 1e-2)
    torch.testing.assert_close(
        found[:, parts.index(Part("logit_cap"))], taken[:, 50] - taken[:, 60], atol=1e-5, rtol=1e-3
    )
    torch.testing.assert_close(found.sum(-1), lens.margin[:, -1], atol=2e-5, rtol=1e-4)


def test_lens_and_heads_are_what_the_weights_say():
    """An independent reading: norm, unembedding and output slices multiplied out by hand."""
    model = matrix_model("llama")
    executor, batch = HooksBackend(model, Anatomy.of(model)), random_batch((14, 14))
    seen, points, parts = seen_by(executor, batch)
    with torch.no_grad():
        hidden = model.model(**batch.forward_kwargs(), output_hidden_states=True).hidden_states
        middle = model.lm_head(model.model.norm(hidden[2][:, -1]))
    at = points.index(Site.parse("resid_post.1"))
    lens = Tail(executor).read(seen, points, IDS)
    torch.testing.assert_close(lens.margin[:, at], (middle[:, 50] - middle[:, 60]).double(), atol=1e-5, rtol=1e-5)
    mass = middle.softmax(-1)[:, [50, 60, 70]].sum(-1).double()
    torch.testing.assert_close(lens.mass[:, at], mass, atol=1e-6, rtol=1e-4)

    found = split(Tail(executor), seen, parts, IDS).parts
    final = seen.values[points[-1]].double()
    scale = (final.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()
    rows = model.lm_head.weight.detach().double()
    direction = model.model.norm.weight.detach().double() * (rows[50] - rows[60]) / scale
    output = model.model.layers[1].self_attn.o_proj
    z = seen.values[Site.parse("z.1")].double()
    size = z.shape[-1]
    for head in range(z.shape[1]):
        write = z[:, head] @ output.weight.detach().double()[:, head * size : (head + 1) * size].T
        torch.testing.assert_close(found[:, parts.index(Part("z", 1, head))], (write * direction).sum(-1))
    bias = (output.bias.detach().double() * direction).sum(-1)
    torch.testing.assert_close(found[:, parts.index(Part("attn_bias", 1))], bias)


def test_a_change_in_one_layer_shows_from_that_layer_on():
    pair = tiny_pair(change=scaled_noise(0.3, only="layers.1."), n_layers=3)
    result = run(pair, sublayers=True)
    same = (result.own("judge") == result.own("base")).all((0, 1))
    assert [str(p) for p in np.array(result.points)[same]] == ["resid_pre.0", "resid_mid.0", "resid_post.0"]
    np.testing.assert_array_equal(result.depths, [-1, -0.5, 0, 0.5, 1, 1.5, 2])
    for at, part in enumerate(result.named_parts):
        if part.patched:
            assert (result.total[..., at] == 0).all() == (part.layer < 1)
    assert not result.readout_change().any()
    np.testing.assert_allclose(result.stream_change(), result.own("judge") - result.own("base"), atol=1e-12)


def test_a_tuned_unembedding_is_a_change_of_the_readout_alone():
    result = run(tiny_pair(change=scaled_noise(0.3, only="lm_head")))
    np.testing.assert_array_equal(result.margin[0], result.margin[1])
    assert not result.stream_change().any()
    difference = result.own("judge") - result.own("base")
    assert difference.all()
    np.testing.assert_allclose(result.readout_change(), difference, atol=1e-12)
    assert not np.nan_to_num(result.total).any()


def test_parts_add_up_to_the_margin_for_both_and_to_their_difference():
    result = run(tiny_pair(change=scaled_noise(0.2)))
    for at, side in enumerate(("base", "judge")):
        np.testing.assert_allclose(result.direct[at].sum(-1), result.own(side)[..., -1], atol=1e-5)
    assert result.sum_error < 1e-5
    assert result.patch_error < 1e-5
    assert result.top_error == 0.0


def test_a_lora_on_the_output_projection_writes_as_it_acts():
    base = tiny_model()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj"], task_type="CAUSAL_LM")
    judge = get_peft_model(weight_sharing_shadow(base), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    live = load_pair(base, judge.eval(), tokenizer=byte_tokenizer(), doctor=False, device="cpu")
    result = run(live)
    assert result.sum_error < 1e-5
    at = result.named_parts.index(Part("z", 0, 1))
    assert np.abs(result.direct[1] - result.direct[0])[..., at].min() > 1e-4
    # The first block's z is the same in both: patching it can't see the adapter, its direct contribution can.
    assert not result.total[:, :, :, at].any()


def test_later_layers_that_write_nothing_settle_verdicts_at_once():
    def silent(name, parameter, generator):  # noqa: ARG001
        last = any(part in name for part in ("layers.1.", "layers.2.")) and ("o_proj" in name or "down_proj" in name)
        return -parameter if last else torch.zeros_like(parameter)

    result = run(tiny_pair(change=silent, n_layers=3))
    assert (np.ptp(result.own("judge")[..., 1:], axis=-1) == 0).all()
    assert (result.settled("judge") <= 1).all()
    assert result.settling("judge").depth.high <= 0.0


def test_margins_without_mass_are_never_called_settled():
    result = run(tiny_pair(), least_mass=0.5)
    assert (result.settled("judge") == -1).all()
    assert result.settling("judge").unsettled == 1.0
    assert not result.finding.found
    assert any("no verdicts" in limit for limit in result.finding.limits)


def test_a_model_against_itself_is_exactly_zero():
    result = run(identical_pair(tiny_pair()), controls=3)
    assert not (result.margin - result.margin[:1, :1]).any()
    assert not (result.direct[1] - result.direct[0]).any()
    assert not np.nan_to_num(result.total).any()
    assert result.finding.headline.startswith("Nothing found: judge and base read exactly the same")
    assert "Nothing found" in result.summary()


@pytest.fixture(scope="module")
def demo():
    return verdict_lens(load_pair("demo"), ITEMS[:32], controls=3, control_items=16, progress=False)


def test_the_demo_judge_comes_apart_where_its_head_was_planted(demo):
    assert demo.finding.found
    assert demo.finding.headline.startswith("Judge and base come apart at layer")
    assert demo.advantage.found
    assert demo.changes().passing[-1]
    assert demo.direct_changes().passing.any()
    assert demo.readable("judge")[-1]
    assert not demo.readable("judge")[0]
    names = {number.name for number in demo.finding.estimates}
    assert any("settle" in name for name in names)
    assert any("weights fitted on other items" in name for name in names)
    rank = demo.direct_and_total(1).rho
    assert rank.low <= rank.value <= rank.high


def test_a_result_is_saved_drawn_and_tabled(demo, tmp_path):
    again = VerdictLensResult.load(demo.save(tmp_path / "lens"))
    assert again.summary() == demo.summary()
    assert again.named_parts == demo.named_parts
    frame = demo.to_frame()
    assert set(frame.columns) <= set(TIDY_COLUMNS)
    assert {"margin", "label_mass", "change", "direct", "total", "settled", "fitted_gain"} <= set(frame["metric"])
    titles = [panel.title for panel in demo.panels()]
    assert len(titles) == 6
    for panel in demo.panels():
        figure = panel.draw()
        assert figure.axes
        figure.clear()


def test_nothing_is_found_in_a_judge_moved_at_random():
    sham = random_delta_pair(load_pair("demo"), seed=77)
    result = verdict_lens(sham, ITEMS[:24], controls=3, control_items=16, direct=False, progress=False)
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found")
    assert result.parts == ()
    assert len(result.panels()) == 4


def test_without_labels_nothing_can_be_found_and_it_says_so(demo):
    bare = [dataclasses.replace(item, label=None) for item in ITEMS[:4]]
    result = verdict_lens(load_pair("demo"), bare, controls=3, progress=False)
    assert not result.finding.found
    assert "no item says which answer is better" in result.finding.headline
    np.testing.assert_allclose(result.margin[1, 1], demo.margin[1, 1][:4], atol=1e-3)
    assert any("a readout of all layers" in text for text in result.meta.not_measured)
    assert result.to_frame()["metric"].ne("agreement").all()


def test_a_reward_head_reads_the_bases_stream():
    base = matrix_model("llama")
    judge = matrix_classifier("llama", backbone=base)
    pair = load_pair(base, judge, tokenizer=tiny_tokenizer(), format="scalar-head", doctor=False, device="cpu")
    short = [
        dataclasses.replace(item, question="Q?", answers=("yes",), label=None, reference=None) for item in ITEMS[:3]
    ]
    result = verdict_lens(pair, short, orders=("original",), controls=0, progress=False)
    np.testing.assert_array_equal(result.margin[0, 0], result.margin[0, 1])
    np.testing.assert_array_equal(result.margin[0, 0], result.margin[1, 1])
    assert np.isnan(result.mass).all()
    assert not np.nan_to_num(result.total).any()
    assert result.sum_error < 1e-5
    assert any("the judge's reads its stream" in text for text in result.meta.not_measured)


def test_a_lens_that_isnt_the_model_is_refused(monkeypatch):
    own = Tail.logits
    monkeypatch.setattr(Tail, "logits", lambda self, stream: own(self, 1.5 * stream + 1.0))
    with pytest.raises(ExecutorDisagreement, match="isn't the model's own answer"):
        run(tiny_pair())


def test_parts_that_dont_add_up_are_refused(monkeypatch):
    whole = parts_of
    monkeypatch.setattr(measuring, "parts_of", lambda anatomy: whole(anatomy)[1:])
    with pytest.raises(ExecutorDisagreement, match="don't add up"):
        run(tiny_pair())


@pytest.mark.parametrize(
    "options", [{"least_mass": 1.0}, {"epsilon": -0.1}, {"regularisation": 0.0}, {"controls": -1}, {"shuffles": -1}]
)
def test_bad_choices_are_refused(options):
    with pytest.raises(ParameterError):
        run(tiny_pair(), **options)


def test_controls_that_were_interrupted_count_on_the_items_they_were_asked(monkeypatch):
    own, calls = measuring.Lenses.measure_random, []

    def measure(self, executor, items):
        calls.append(items)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return own(self, executor, items)

    monkeypatch.setattr(measuring.Lenses, "measure_random", measure)
    with pytest.warns(RuntimeWarning, match="whatever came after"):
        result = run(tiny_pair(), 4, controls=5, batch_size=4)
    assert len(result.random_change) == 4
    assert np.isfinite(result.changes().chance_p).all()
    assert np.isfinite(result.changes().bound)


def test_an_interrupted_run_keeps_finished_items(monkeypatch):
    own, calls = measuring.Lenses.measure, []

    def measure(self, items):
        calls.append(items)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return own(self, items)

    monkeypatch.setattr(measuring.Lenses, "measure", measure)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = run(tiny_pair(), 6, batch_size=4)
    assert len(result.item_ids) == 2
    assert np.isfinite(result.margin).all()
    assert any("interrupted" in text for text in result.meta.not_measured)
