"""Known truths of TuCo by token: prefixes, sums, closed forms, planted regions, shams."""

import numpy as np
import pytest
import torch

from analyses.tuco.clamp import measure, to_numpy
from analyses.tuco.cuts import units
from analyses.tuco.gauge import Gauge
from analyses.tuco.shares import vector_norm
from analyses.tuco.tokens import map_tokens
from analyses.tuco.tokens.averages import PromptTokens, region_means
from analyses.tuco.tokens.completions import PROMPT_END, START, VERDICT
from analyses.tuco.tokens.double_pass import TokenShares, measure_tokens
from analyses.tuco.tokens.statements import concentrations
from workbench.hooks import Component, Patch, Site
from workbench.judges import JudgeItem
from workbench.pairs import identical_pair, load_pair, random_delta_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tiny_pair, tuned_copy
from workbench.tokens import TokenBatch

ITEMS = [
    JudgeItem(item_id=f"i{i}", question=f"What is {i} plus {i}?", answers=(str(2 * i), "x" * (1 + i % 3)), label=i % 2)
    for i in range(6)
]
QUIET = {"progress": False, "controls": 0}
REASONS = [f" because {k} is longer. [[{'AB'[k % 2]}]]" for k in range(12)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    return tiny_pair(architecture=request.param)


@pytest.fixture(scope="module")
def bracket():
    """A pair whose format reads a verdict anywhere in the completion."""
    return tiny_pair(format="bracket")


@pytest.mark.parametrize("granularity", ["block", "sublayer", "model"])
def test_identical_models_wrote_exactly_nothing_anywhere(pair, granularity):
    result = map_tokens(identical_pair(pair), ITEMS[:3], granularity=granularity, progress=False)
    assert not np.nan_to_num(result.finetuned_depth).any()
    assert not np.nan_to_num(result.example_finetuned_parts).any()
    assert (result.identical_share, result.finding.found) == (0.0, False)
    assert "exactly nothing" in result.finding.headline
    assert np.nanmin(result.pretrained_norm) > 0


def test_a_tokens_value_is_that_of_the_prompt_cut_off_after_it(pair):
    """One teacher-forced double pass gives what a double pass per prefix would, left padding or not."""
    rows = [row[:40] for row in pair.encode(ITEMS[:2], orders=["original"]).rows]
    batch = TokenBatch.from_rows([rows[0], rows[1][:33]], pad_id=0)
    parts = units("block", n_layers=pair.n_layers, parallel=False)
    judge, base = pair.executor("judge"), pair.executor("base")
    found = measure_tokens(judge, base, batch, parts=parts, gauge=Gauge(name="l1"))
    assert found.alignment.shape == (73,), "padding is never measured"
    for row, at, stop in ((0, 0, 1), (0, 17, 18), (0, 39, 40), (1, 40, 1), (1, 72, 33)):
        prefix = TokenBatch.from_rows([rows[row][:stop]], pad_id=0)
        alone = measure(judge, base, prefix, parts=parts)
        finetuned, pretrained = to_numpy(alone.finetuned)[0], to_numpy(alone.pretrained)[0]
        one, two = vector_norm(finetuned.sum(0), norm="l1"), vector_norm(pretrained.sum(0), norm="l1")
        together = found.finetuned_depth[at, -1], found.pretrained_depth[at, -1]
        share = together[0] / sum(together)
        np.testing.assert_allclose(share, one / (one + two), atol=2e-6)
        np.testing.assert_allclose(found.finetuned_depth[at, 0], np.abs(finetuned[0]).sum(), atol=2e-4)


@pytest.mark.parametrize("norm", ["l1", "l2", "final_norm"])
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_parts_add_up_and_the_depth_ends_at_the_whole(pair, norm, granularity):
    result = map_tokens(pair, ITEMS[:2], norm=norm, granularity=granularity, **QUIET)
    np.testing.assert_allclose(result.finetuned_parts.sum(-1), result.finetuned_norm, rtol=1e-5)
    np.testing.assert_allclose(result.pretrained_parts.sum(-1), result.pretrained_norm, rtol=1e-5)
    np.testing.assert_allclose(result.profile[..., -1], result.tuco, rtol=1e-6)
    np.testing.assert_allclose(result.example_finetuned_parts.sum(-1), result.example_finetuned, rtol=1e-5)


def test_the_verdict_token_has_the_value_the_one_token_analysis_finds(pair):
    from analyses import tuco

    result = map_tokens(pair, ITEMS, **QUIET)
    plain = tuco.run(pair, ITEMS, progress=False, controls=0, confirm=False, output_share=False)
    np.testing.assert_allclose(result.at(VERDICT, result.tuco), plain.tuco, atol=2e-6)
    np.testing.assert_allclose(result.at(VERDICT, result.alignment), plain.alignment, atol=1e-5)
    assert (result.at(VERDICT, result.n_tokens) == 1).all()
    lengths = [len(row) for row in pair.encode(ITEMS).rows]
    assert result.n_tokens.sum(-1).ravel().tolist() == lengths, "every real token lies in one region"


@pytest.mark.parametrize("c", [0.1, 0.5])
def test_scaled_writes_have_one_share_at_every_token(c):
    """Output matrices times (1 + c): F = c P at every write of every token, so TuCo = c / (1 + c) everywhere."""
    base = tiny_model(n_layers=3)

    def scaled(name, parameter, _generator):
        return c * parameter.detach() if "o_proj" in name or "down_proj" in name else torch.zeros_like(parameter)

    pair = _loaded(base, tuned_copy(base, change=scaled))
    for norm in ("l1", "final_norm"):
        result = map_tokens(pair, ITEMS[:2], granularity="sublayer", norm=norm, **QUIET)
        known = result.example_tokens[0][0]
        values = result.example_finetuned / (result.example_finetuned + result.example_pretrained)
        np.testing.assert_allclose(values[0, 0, : len(known)], c / (1 + c), atol=1e-6)
        np.testing.assert_allclose(result.alignment, 1.0, atol=1e-6)


def test_a_token_without_an_angle_leaves_the_others_their_mean():
    values = TokenShares(
        alignment=np.array([np.nan, 0.5, 1.0]),
        finetuned_parts=np.ones((3, 1)),
        pretrained_parts=np.ones((3, 1)),
        finetuned_depth=np.array([[1.0], [2.0], [4.0]]),
        pretrained_depth=np.ones((3, 1)),
    )
    prompt = PromptTokens(regions=("start", "question", "question"), measured=np.ones(3, dtype=bool), values=values)
    means = region_means(prompt, ("start", "question", "rubric"))
    np.testing.assert_array_equal(means["alignment"], [np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(means["finetuned_norm"], [1.0, 3.0, np.nan])
    np.testing.assert_array_equal(means["n_tokens"], [1, 2, 0])


def test_only_the_tuned_block_wrote_anything_at_any_token():
    pair = tiny_pair(change=scaled_noise(0.2, only="layers.1."), n_layers=3)
    result = map_tokens(pair, ITEMS[:2], **QUIET)
    assert not np.nan_to_num(result.finetuned_parts[..., [0, 2]]).any()
    assert (result.finetuned_parts[..., 1] > 0).all()


def test_the_final_norms_view_is_weighted_with_its_gain(pair):
    judge, base = pair.executor("judge"), pair.executor("base")
    batch = TokenBatch.from_rows([pair.encode(ITEMS[:1]).rows[0][:20]], pad_id=0)
    parts = units("model", n_layers=pair.n_layers, parallel=False)
    found = measure_tokens(judge, base, batch, parts=parts, gauge=Gauge.of("final_norm", judge))
    writes = measure(judge, base, batch, parts=parts)
    norm = pair.judge.get_submodule(judge.anatomy.final_norm)
    view = to_numpy(writes.finetuned.sum(1))
    view = (view - view.mean(-1, keepdims=True) if hasattr(norm, "bias") else view) * to_numpy(norm.weight)
    other = to_numpy(writes.pretrained.sum(1))
    other = (other - other.mean(-1, keepdims=True) if hasattr(norm, "bias") else other) * to_numpy(norm.weight)
    expected = np.linalg.norm(view) / (np.linalg.norm(view) + np.linalg.norm(other))
    sizes = found.finetuned_depth[-1, -1], found.pretrained_depth[-1, -1]
    np.testing.assert_allclose(sizes[0] / sum(sizes), expected, rtol=1e-4)


def test_given_completions_are_cut_before_the_label_and_tokenised_with_the_prompt(bracket):
    result = map_tokens(bracket, ITEMS, completions=REASONS, **QUIET)
    assert result.said.ravel().tolist() == [k % 2 for k in range(12)]
    tokens, regions = result.example_tokens[0][0], result.example_regions[0][0]
    assert "".join(tokens).endswith("My verdict is: because 0 is longer. [[")
    assert (regions[0], regions[-1]) == (START, VERDICT)
    cut = regions.index(PROMPT_END)
    assert tokens[cut] == ":"
    assert "".join(tokens[cut + 1 :]) == " because 0 is longer. [["
    assert set(regions[cut + 1 : -1]) == {"completion"}
    assert result.curve.shape[-1] == len(" because 10 is longer. [[") + 1
    named = dict(zip(bracket.encode(ITEMS).prompt_ids[::-1], REASONS[::-1], strict=True))
    np.testing.assert_array_equal(map_tokens(bracket, ITEMS, completions=named, **QUIET).curve, result.curve)


def test_the_completion_curve_is_the_prefix_by_prefix_measurement(bracket):
    result = map_tokens(bracket, ITEMS[:1], completions=REASONS[:2], **QUIET)
    prompt = bracket.encode(ITEMS[:1]).prompts[0].text
    parts = units("block", n_layers=bracket.n_layers, parallel=False)
    for step, text in (
        (0, prompt),
        (9, prompt + REASONS[0][:9]),
        (result.curve.shape[-1] - 1, prompt + REASONS[0][:-3]),
    ):
        ids = bracket.tokenizer(text)["input_ids"]
        alone = measure(
            bracket.executor("judge"), bracket.executor("base"), TokenBatch.from_rows([ids], pad_id=0), parts=parts
        )
        sizes = [vector_norm(to_numpy(x).sum(1), norm="l1")[0] for x in (alone.finetuned, alone.pretrained)]
        np.testing.assert_allclose(result.curve[0, 0, step], sizes[0] / sum(sizes), atol=2e-6)
    np.testing.assert_allclose(result.curve[0, 0, 0], result.tuco[0, 0, result.regions.index(PROMPT_END)])
    np.testing.assert_allclose(result.curve[0, 0, -1], result.at(VERDICT, result.tuco)[0, 0])
    np.testing.assert_array_equal(result.first_token[0], result.finetuned_curve[..., 0])
    np.testing.assert_allclose(result.reasoning[0], np.nanmean(result.finetuned_curve[..., 1:-1], axis=-1))


def test_an_unread_completion_is_counted_and_has_no_verdict_token(bracket):
    texts = [" nobody knows", *REASONS[1:]]
    result = map_tokens(bracket, ITEMS, completions=texts, **QUIET)
    assert (result.n_unread, result.said[0, 0]) == (1, -1)
    assert np.isnan(result.at(VERDICT, result.tuco)[0, 0])
    assert np.isfinite(result.at(VERDICT, result.tuco)).sum() == 11
    assert result.example_regions[0][0][-1] == "completion"
    assert "".join(result.example_tokens[0][0]).endswith("nobody knows")
    assert any("1 of 12 completions gave no readable verdict" in limit for limit in result.finding.limits)


def test_the_judges_own_completion_keeps_its_own_ids(bracket, monkeypatch):
    """What the judge generated is measured as it stands; a label in it ends the row one token before."""
    words = " so [[B]]</s>"
    new = torch.tensor([bracket.tokenizer(words, add_special_tokens=False)["input_ids"]])

    def written(_self, batch, *, max_new_tokens, **_options):
        return torch.cat([batch.ids, new.expand(len(batch), -1)[:, :max_new_tokens]], dim=1)

    monkeypatch.setattr("workbench.hooks.HooksBackend.generate", written)
    result = map_tokens(bracket, ITEMS[:1], completions="generate", **QUIET)
    assert (result.said == 1).all()
    assert "".join(result.example_tokens[0][0]).endswith("My verdict is: so [[")
    cut = map_tokens(bracket, ITEMS[:1], completions="generate", max_new_tokens=4, **QUIET)
    assert cut.n_unread == 2


def test_real_generation_is_measured_to_its_end(bracket):
    result = map_tokens(bracket, ITEMS[:1], completions="generate", max_new_tokens=5, **QUIET)
    row = bracket.tokenizer(bracket.encode(ITEMS[:1]).prompts[0].text)["input_ids"]
    out = bracket.judge.generate(
        torch.tensor([row]), max_new_tokens=5, do_sample=False, attention_mask=torch.ones(1, len(row))
    )
    kept = [int(i) for i in out[0, len(row) :] if i not in (0, 2)]
    assert len(result.example_tokens[0][0]) == len(row) + len(kept)


def test_tuning_that_reads_only_the_question_is_found_in_the_question():
    """Planted: the last block's down projection gains a write that only the question's tokens switch on."""
    pair = _reads_only("z", only_in="question")
    result = map_tokens(pair, _LETTERS, progress=False, orders=["original"], examples=0)
    shares = {name: np.nanmean(result.at(name, result.tuco)) for name in result.regions}
    assert max(shares, key=lambda name: shares[name]) == "question"
    assert result.finding.found
    tests = {test.region: test for test in concentrations(result)}
    assert tests["question"].p < 0.05
    assert tests["question"].own.value > 3 * tests["question"].chance.value
    assert "question" in result.finding.headline
    assert {name for name, test in tests.items() if np.isnan(test.p)} == {"start", "instruction"}, "one measurement"


def test_taking_the_write_out_of_the_found_region_gives_back_the_base():
    """Independent of the clamp: with the base's block output at the question's tokens, the judge is the base there."""
    pair = _reads_only("z", only_in="question")
    encoded = pair.encode(_LETTERS[:1], orders=["original"])
    batch = encoded.batch()
    last = Site(Component.RESID_POST, pair.n_layers - 1)
    judge, base = (pair.executor(side).run(batch, capture=[last]).activations[last] for side in ("judge", "base"))
    span = encoded.spans[0]["question"]
    columns = torch.arange(span.start, span.stop)[None]
    patched = pair.executor("judge").run(
        batch, edits=[Patch(site=last, values=base[:, columns[0]], positions=columns)], capture=[last]
    )
    before, after = (judge - base).norm(), (patched.activations[last] - base).norm()
    assert after < 0.5 * before


@pytest.mark.slow
def test_random_judges_rarely_stand_out_anywhere():
    """Shams: about one in twenty may."""
    found = 0
    for seed in range(20):
        sham = random_delta_pair(tiny_pair(seed=seed % 4), seed=200 + seed)
        found += map_tokens(sham, ITEMS, progress=False, examples=0, orders=["original"]).finding.found
    assert found <= 3


_LETTERS = [
    JudgeItem(item_id=f"z{i}", question="z" * (12 + i), answers=("yes", "no" * (1 + i % 3)), label=i % 2)
    for i in range(8)
]


def _reads_only(letter: str, *, only_in: str):
    """Return a pair tuned by one rank-one write to the last block that a letter's tokens switch on."""
    base = tiny_model()
    probe = _loaded(base, tuned_copy(base, change=scaled_noise(0.01)))
    encoded = probe.encode(_LETTERS[:4], orders=["original"])
    inputs: list[torch.Tensor] = []
    down = base.get_submodule("model.layers.1.mlp.down_proj")
    handle = down.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].detach()[0]))
    with torch.no_grad():
        for row in encoded.rows:
            base(torch.tensor([row]))
    handle.remove()
    wanted = torch.cat([torch.tensor([name == only_in for name in encoded.span_names(i)]) for i in range(4)])
    hidden, target = torch.cat(inputs).double(), wanted.double()
    ridge = hidden.T @ hidden + 1e-3 * torch.eye(hidden.shape[1], dtype=torch.float64)
    reads = torch.linalg.solve(ridge, hidden.T @ target)
    writes = torch.randn(down.weight.shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def change(name, parameter, _generator):
        if name != "model.layers.1.mlp.down_proj.weight":
            return torch.zeros_like(parameter)
        return (2.0 * torch.outer(writes, reads)).to(parameter)

    return _loaded(base, tuned_copy(base, change=change))


def _loaded(base, judge):
    return load_pair(base, judge, tokenizer=byte_tokenizer(), format="pairwise", doctor=False, device="cpu")
