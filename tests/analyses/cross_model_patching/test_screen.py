"""Attribution patching: scores beside finite differences, full forwards and planted truths; nulls and refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from analyses.cross_model_patching.cells import Cell
from analyses.cross_model_patching.screen import ScreenResult, screen
from analyses.cross_model_patching.screen.attribution import attributed, scores, trace, traced_sites
from analyses.cross_model_patching.screen.choosing import choose
from analyses.cross_model_patching.screen.exact import (
    Place,
    entered,
    exact_effects,
    held_stream,
    last_effects,
    of_change_elsewhere,
    of_model_at,
    rows_of,
)
from analyses.cross_model_patching.screen.regions import BEFORE, LAST, by_region, region_columns, regions_of
from analyses.cross_model_patching.screen.views import STREAM
from analyses.cross_model_patching.screen.work import units_of
from analyses.cross_model_patching.sweeping import as_numpy, of_model, read_rows, sweep
from analyses.cross_model_patching.verdicts import VerdictIds
from analyses.looping import Prompts
from tests import tiny_models
from tests.short_format import SHORT_FORMAT
from workbench.errors import ParameterError, UnknownSite
from workbench.hooks import Patch, Site
from workbench.hooks.suffix import Row, Suffix
from workbench.judges import JudgeItem, Segment
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy

SITES = ("resid_pre", "attn_out", "mlp_out", "z")
SOME = {"last_k": 2, "controls": 0, "examples": 2, "batch_size": 4, "recheck": 4, "progress": False}


BYTES = dataclasses.replace(
    SHORT_FORMAT,
    segments=(Segment(text="Q: {question} A: {answer_a} B: {answer_b} ["),),
    groups={"A": ("A",), "B": ("B",)},
)
"""Short prompts whose labels differ in their first byte."""


def items(count=8):
    return [
        JudgeItem(item_id=f"i{n}", question=f"Is it {n}?", answers=(f"{n} it is.", "No."), label=n % 2)
        for n in range(count)
    ]


def pair_of(change, *, dtype=torch.float64, architecture="llama"):
    base = tiny_model(n_layers=3, architecture=architecture).to(dtype)
    return load_pair(
        base, tuned_copy(base, change=change, seed=1), tokenizer=byte_tokenizer(), format=BYTES, doctor=False,
        device="cpu", dtype=dtype,
    )  # fmt: skip


class Bench:
    """One batch of a pair with both models' traces."""

    def __init__(self, pair, count=2, sites=SITES, method="atp"):
        self.prompts = Prompts.of(pair, items(count))
        self.verdict = VerdictIds.of(self.prompts)
        self.batch = self.prompts.batch(range(count))
        self.models = {side: pair.executor(side) for side in ("base", "judge")}
        self.sites, self.units = units_of(self.models["base"], sites)
        wanted = traced_sites(self.sites, method)
        self.traces = {s: trace(m, self.batch, wanted, self.verdict) for s, m in self.models.items()}

    def attributed(self, target="base", donor="judge", **options):
        ends = self.traces[target], self.traces[donor]
        options = {"method": "atp", "steps": 1, **options}
        return attributed(self.models[target], self.batch, self.verdict, sites=self.sites, ends=ends, **options)

    def margin(self, side, edits=()):
        run = self.models[side].run(self.batch, edits=edits, check_edits=False)
        return self.verdict.of_vocabulary(run.logits)[0]


@pytest.fixture(scope="module")
def bench():
    return Bench(pair_of(scaled_noise(0.05)))


def test_gradients_are_finite_differences():
    """GPT-2 is float64 throughout; Llama's norms go through float32."""
    bench = Bench(pair_of(scaled_noise(0.05), architecture="gpt2"))
    generator = torch.Generator().manual_seed(3)
    for site in bench.sites[::2]:
        own = bench.traces["base"].values[site]
        step = torch.randn(own.shape, generator=generator, dtype=own.dtype)
        ends = [bench.margin("base", [Patch(site, own + sign * 1e-5 * step)]) for sign in (1, -1)]
        slope = (bench.traces["base"].gradients[site] * step).flatten(1).sum(1)
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_scores_of_a_small_change_are_its_exact_effects_at_the_last_token():
    """T9: the exact last-position effects are a free oracle."""
    small = Bench(pair_of(scaled_noise(0.01)))
    target, donor = (
        Suffix(small.models[side], small.batch, capture=small.sites, tokens=1) for side in ("base", "judge")
    )
    exact = last_effects(target, donor, small.sites, small.verdict, count=1)[0][..., 0]
    scored = as_numpy(small.attributed()[:, -1])
    assert exact.shape == scored.shape == (len(small.batch), len(small.units))
    assert np.corrcoef(exact.ravel(), scored.ravel())[0, 1] > 0.999
    assert np.abs(exact).max() > 1e-4


def test_the_error_of_a_score_is_of_second_order(bench):
    """Halving the change (of the donor's activations, T8) quarters what scores miss; without change nothing is left."""
    target, donor = bench.traces["base"], bench.traces["judge"]
    misses = []
    for alpha in (0.0, 0.01, 0.02, 0.04):
        site = bench.sites[1]
        own = target.values[site]
        between = {**target.values, site: own + alpha * (donor.values[site] - own)}
        mixed = type(donor)(margin=donor.margin, values=between, gradients={})
        score = scores(target, mixed, bench.batch, gradients={site: target.gradients[site]}).sum((1, 2))
        effect = bench.margin("base", [Patch(site, between[site])]) - bench.margin("base")
        misses.append(float((score - effect).abs().max()))
    assert misses[0] == 0.0
    assert misses[1] > 0
    assert misses[2] / misses[1] == pytest.approx(4, rel=0.15)
    assert misses[3] / misses[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("target", ["base", "judge"])
def test_integrated_scores_add_up_to_the_exact_effect_of_the_whole_site(target):
    bench = Bench(pair_of(scaled_noise(0.2)), method="ig")
    donor = {"base": "judge", "judge": "base"}[target]
    found = bench.attributed(target, donor, method="ig", steps=8)
    rough = bench.attributed(target, donor)
    mask = bench.batch.mask
    for site in bench.sites:
        columns = [k for k, unit in enumerate(bench.units) if Site.parse(unit).whole == site]
        values = bench.traces[donor].values[site]
        effect = bench.margin(target, [Patch(site, values)]) - bench.margin(target)
        total = found[..., columns].sum((1, 2))
        torch.testing.assert_close(total, effect, rtol=1e-3, atol=1e-4)
        assert not found[~mask].any()
        if float((rough[..., columns].sum((1, 2)) - effect).abs().max()) > 1e-2:
            assert (total - effect).abs().max() < 0.1 * (rough[..., columns].sum((1, 2)) - effect).abs().max()


def test_a_change_of_the_embedding_is_the_whole_gap_in_the_first_stream():
    def change(name, parameter, generator):
        return scaled_noise(0.1, only="embed_tokens")(name, parameter, generator)

    bench = Bench(pair_of(change), method="ig", sites=("resid_pre",))
    found = bench.attributed(method="ig", steps=8)
    gap = bench.traces["judge"].margin - bench.traces["base"].margin
    assert float(gap.abs().max()) > 1e-3
    torch.testing.assert_close(found[..., 0].sum(1), gap, rtol=1e-4, atol=1e-6)


def test_nothing_below_the_first_changed_block_scores():
    bench = Bench(pair_of(scaled_noise(0.1, only="layers.1.mlp")))
    found = bench.attributed()
    for k, unit in enumerate(bench.units):
        site = Site.parse(unit)
        below = site.layer < 1 or (site.layer == 1 and site.component != "mlp_out")
        assert bool(found[..., k].any()) == (not below), unit


def test_tokens_add_up_to_parts(bench):
    found = bench.attributed()
    regions = regions_of(bench.prompts, None)
    assert regions[-1] == LAST
    assert {"template", "question", "answer_a", "answer_b"} <= set(regions)
    parts = by_region(found, bench.batch, regions)
    torch.testing.assert_close(parts.sum(1), found.sum(1))
    torch.testing.assert_close(parts[:, -1], found[:, -1])
    start, stop = bench.batch.spans[0]["question"]
    torch.testing.assert_close(parts[0, regions.index("question")], found[0, start:stop].sum(0))


def test_an_exact_part_is_that_of_the_sweep_and_of_a_full_forward(bench):
    """Three ways to patch a span of a padded batch."""
    cells = [Cell(component=site.component, layer=site.layer, span="answer_b") for site in bench.sites[:5:2]]
    places = [Place((cell.site,), "answer_b") for cell in cells]
    target, donor = (entered(bench.models[side], bench.batch, places) for side in ("base", "judge"))
    own = exact_effects(target, places, of_model_at(donor), bench.verdict, check=0).effect
    np.testing.assert_allclose(
        own, sweep(target, [(c,) for c in cells], of_model(donor), bench.verdict).effect, atol=1e-12
    )
    for k, place in enumerate(places):
        values = bench.traces["base"].values[place.sites[0]].clone()
        for row, table in enumerate(bench.batch.spans):
            part = slice(*table["answer_b"])
            values[row, part] = bench.traces["judge"].values[place.sites[0]][row, part]
        full = bench.margin("base", [Patch(place.sites[0], values)]) - bench.margin("base")
        np.testing.assert_allclose(own[:, k], as_numpy(full), atol=1e-9)


def test_another_items_change_is_its_difference_from_the_right(bench):
    place = Place((bench.sites[1],), "answer_a")
    target, donor = (entered(bench.models[side], bench.batch, [place]) for side in ("base", "judge"))
    part = region_columns(bench.batch, "answer_a")
    order = [2, 3, 0, 1]
    own = target.clean(place.sites[0], part.columns)
    moved = of_change_elsewhere(donor, target, order)(place.sites[0], part) - own
    change = donor.clean(place.sites[0], part.columns) - own
    torch.testing.assert_close(moved[:, -1], change[order][:, -1])
    for row, count in enumerate(part.n_tokens.tolist()):
        first = part.columns.shape[1] - count
        assert bool((moved[row, : first + 1] == moved[row, first]).all())


def test_components_take_turns_and_zeros_are_never_chosen():
    units = ("resid_pre.0", "resid_pre.1", "attn_out.0", "z.0.h0", "z.0.h1")
    screened = np.array([[9.0, 8, 1, 0, 0], [7, 6, -2, 0, 0], [99, 99, 99, 99, 99]])
    back = np.array([[99.0] * 5, [5, 5, 5, 0.5, 0], [7, 6, -2, 0, 0]])
    chosen = choose(screened, back, regions=("a", "b", LAST), units=units, calibrated=1, count=6)
    assert chosen[:3] == (("a", "resid_pre.0"), ("-2", "attn_out.0"), ("-2", "z.0.h0"))
    assert all(region not in (LAST, "-1", "-3") for region, _ in chosen)
    assert not any(unit == "z.0.h1" for _, unit in chosen)


@pytest.fixture(scope="module")
def planted():
    """A judge that differs in one block's MLP only."""
    pair = pair_of(scaled_noise(0.6, only="layers.1.mlp"), dtype=torch.float32)
    return pair, screen(pair, items(24), **{**SOME, "controls": 3, "control_items": 4})


def test_scores_and_exact_effects_stand_side_by_side(planted, tmp_path):
    _, result = planted
    assert result.agreement("judge_to_base").correlation.value > 0.5
    for at, direction in enumerate(result.directions):
        chosen = [(region, unit) for region, unit in result.places[at] if unit != STREAM]
        assert 0 < len(chosen) <= 4
        assert all(region != LAST for region, _ in chosen)
        assert np.isnan(result.exact[at, result.ranked]).all()
        assert not np.isnan(result.exact[at, ~result.ranked][..., : len(result.places[at])]).any()
        assert len(result.map(direction).p) == len(result.regions)
    loaded = ScreenResult.load(result.save(tmp_path / "kept"))
    assert loaded.summary() == result.summary()
    assert loaded.places == result.places


def test_everything_before_and_everything_at_the_last_token_is_the_whole_gap():
    """Streams held in front of the last token, and the judge's writes at it, make the judge of the base."""
    layers = range(3)
    before = held_stream(len(layers), BEFORE)
    last = Place(tuple(Site.parse(f"{name}.{k}") for k in layers for name in ("attn_out", "mlp_out")), LAST)
    # What is read, and where streams begin, is the same in both models.
    shared = Bench(pair_of(scaled_noise(0.1, only="model.layers")))
    target, donor = (entered(shared.models[side], shared.batch, [before, last]) for side in ("base", "judge"))
    rows = rows_of(target, [before, last], of_model_at(donor))
    alone, other, whole = read_rows(target, [*rows, Row(rows[0].writes + rows[1].writes)], shared.verdict).effect.T
    gap = as_numpy(shared.traces["judge"].margin - shared.traces["base"].margin)
    np.testing.assert_allclose(whole, gap, atol=1e-5)
    # T2a: with the judge's writes at the last token nothing in front of it is read any more.
    np.testing.assert_allclose(other, gap, atol=1e-5)
    assert np.abs(alone - gap).max() > 1e-3


def test_displays(planted):
    _, result = planted
    frame = result.to_frame()
    assert {"score", "effect", "recovery", "correlation", "slope", "miss", "verdict_margin"} <= set(frame.metric)
    strip = result.strip("i0", "swapped", direction="base_to_judge", component="mlp_out")
    assert "mlp_out" in strip
    assert "last token" in strip
    for panel in result.panels():
        panel.draw()
        assert "n =" in panel.caption or "r =" in panel.caption
    assert result.plot().get_xlabel()
    assert "screen" in result.meta.analysis
    with pytest.raises(ParameterError, match="kept"):
        result.strip(item="nobody")


def test_a_model_against_itself_is_exactly_zero():
    result = screen(identical_pair(pair_of(scaled_noise(0.1))), items(), **{**SOME, "controls": 3})
    for name in ("screened", "back", "exact_back"):
        assert not getattr(result, name).any()
    assert not np.nan_to_num(result.exact).any()
    assert not result.finding.found
    assert "exactly 0" in result.finding.headline


@pytest.mark.parametrize("method", ["atp", "ig"])
def test_a_random_change_is_not_found(method):
    pair = random_delta_pair(pair_of(scaled_noise(0.2), dtype=torch.float32), seed=5)
    options = {**SOME, "controls": 3, "control_items": 4, "method": method, "steps": 2, "sites": ("attn_out", "z")}
    result = screen(pair, items(12), **options)
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found")
    assert result.method == method


def test_items_without_labels_find_nothing():
    bare = [JudgeItem(item_id=i.item_id, question=i.question, answers=i.answers) for i in items()]
    result = screen(pair_of(scaled_noise(0.1)), bare, **SOME)
    assert not result.finding.found
    assert "no item says" in result.finding.headline
    assert np.isfinite(result.map("judge_to_base").cells.value).all()


@pytest.mark.parametrize("kind", [{"kind": "lora"}, {"architecture": "gpt2"}, {"kind": "lora", "architecture": "gpt2"}])
def test_adapters_and_gpt2(kind):
    result = screen(tiny_pair(format="bracket", **kind), items(2), **{**SOME, "sites": ("attn_out", "q", "v")})
    assert result.agreement("judge_to_base").correlation.value > 0.7
    assert np.isfinite(result.screened).all()


@pytest.mark.parametrize("architecture", ["gemma2", "neox"])
@pytest.mark.parametrize("method", ["atp", "ig"])
def test_post_norms_windows_and_parallel_blocks(architecture, method):
    base = tiny_models.tiny_model(architecture)
    judge = tuned_copy(base, change=scaled_noise(0.02))
    pair = load_pair(
        base, judge, tokenizer=tiny_models.tiny_tokenizer(), format=SHORT_FORMAT, doctor=False, device="cpu"
    )  # fmt: skip
    short = [JudgeItem(item_id=f"i{n}", question="A?", answers=("b", "c" * (1 + n)), label=0)
             for n in range(4)]  # fmt: skip
    options = {**SOME, "method": method, "steps": 2, "direction": "judge_to_base"}
    result = screen(pair, short, **options)
    assert result.agreement("judge_to_base").correlation.value > 0.9
    assert result.directions == ("judge_to_base",)


def test_the_same_seed_gives_the_same_numbers_and_models_are_left_as_found(planted):
    pair, result = planted
    again = screen(pair, items(24), **{**SOME, "batch_size": 6, "controls": 0})
    np.testing.assert_allclose(again.screened, result.screened, atol=1e-4)
    assert again.places == result.places
    for side in ("base", "judge"):
        module = pair.module(side)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert all(p.grad is None for p in module.parameters())


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    from analyses.cross_model_patching.screen.work import Work

    own, calls = Work.screen, []

    def stopped(self, chosen):
        calls.append(chosen)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(self, chosen)

    monkeypatch.setattr(Work, "screen", stopped)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = screen(pair_of(scaled_noise(0.1)), items(), **SOME)
    assert len(result.item_ids) == 4
    assert np.isfinite(result.screened).all()
    assert not result.finding.found
    result.to_frame()
    assert [panel.draw() for panel in result.panels()]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "eap"}, ParameterError),
        ({"direction": "up"}, ParameterError),
        ({"spans": ("nothing",)}, ParameterError),
        ({"sites": ("heads",)}, ParameterError),
        ({"last_k": 65}, ParameterError),
        ({"last_k": 1, "calibrate": 2}, ParameterError),
        ({"steps": 0}, ParameterError),
    ],
)
def test_refusals(options, error):
    with pytest.raises(error):
        screen(pair_of(scaled_noise(0.1)), items(2), **{**SOME, **options})


def test_a_site_the_model_has_not():
    pair = load_pair(
        tiny_models.tiny_model("neox"), tiny_models.tiny_model("neox", seed=1),
        tokenizer=tiny_models.tiny_tokenizer(), format=SHORT_FORMAT, doctor=False, device="cpu",
    )  # fmt: skip
    with pytest.raises(UnknownSite):
        screen(pair, items(2), **{**SOME, "sites": ("resid_mid",)})
