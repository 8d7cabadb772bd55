"""Planted sites are named and shams name nothing: issue 6's second claim, on models that were really trained.

In ``confined`` the attention of block 2 was trainable and nothing else. Its effect goes through heads of block 4, which
weren't: a sweep of activations has to say both, a swap of weights only the first.
"""

import numpy as np
import pytest

from analyses import cross_model_patching
from workbench import load_items, load_pair
from workbench.hooks import Site
from workbench.pairs import identical_pair, random_delta_pair

PLANTED = 2
WRITES = ("attn_out", "mlp_out", "z")


@pytest.fixture(scope="module")
def confined():
    return load_pair("confined", doctor=False, device="cpu")


@pytest.fixture(scope="module")
def demo():
    return load_pair("demo", doctor=False, device="cpu")


@pytest.fixture(scope="module")
def known():
    """Items with a wrong reference and a rubric that asks for knowledge: there the judge is better throughout."""
    chosen = [i for i in load_items("demo:test") if i.meta["family"] == "conflict" and i.meta["intent"] == "knowledge"]
    return chosen[:16]


@pytest.fixture(scope="module")
def mixed():
    return load_items("demo:test", limit=16)


@pytest.fixture(scope="module")
def swept(confined, known):
    return cross_model_patching.run(
        confined, known, sites=("resid_pre", *WRITES), last_k=3, mass=False, named=0, progress=False
    )


@pytest.fixture(scope="module")
def swapped(confined, known):
    return cross_model_patching.swap_weights(
        confined, known, granularity=("layer", "module"), compare=False, grafts=False, progress=False
    )


def test_below_the_trained_block_every_cell_is_exactly_nothing(swept):
    layers, components = np.array(swept.layers), np.array(swept.components)
    below = (layers < PLANTED) | ((layers == PLANTED) & (components == "resid_pre"))
    assert not swept.effect[..., below].any()
    assert swept.zero[..., below].all()
    own = (layers == PLANTED) & (components == "attn_out")
    assert swept.effect[..., own].all()
    assert not swept.zero[..., own].any()


def test_the_sweep_names_the_trained_block_although_a_mediator_is_larger(swept):
    assert swept.finding.found
    headline = swept.finding.headline
    assert headline.count("attn_out of block 2 at token -3, the first block with such a site") == 2
    assert "Below block 2 both models hold the same bits" in headline
    for direction in swept.directions:
        sweep = swept.sweep(direction)
        strongest = int(np.nanargmax(np.abs(sweep.effect.value)))
        assert swept.cell_name(strongest) == "attn_out of block 4 at the last token"
        assert headline.count(swept.cell_name(strongest)) == 2
        lowest = min(layer for layer, found in zip(swept.layers, sweep.found, strict=True) if found)
        assert lowest == PLANTED
        assert {swept.components[i] for i in np.flatnonzero(sweep.found) if swept.layers[i] == PLANTED} == {
            "attn_out"
        } or direction == "base_to_judge"


def test_a_sweep_that_left_blocks_out_says_nothing_of_them(confined, known):
    some = cross_model_patching.run(
        confined, known[:8], sites=("attn_out",), layers=(4,), last_k=1, mass=False, named=0, progress=False
    )
    assert some.finding.found
    assert "hold the same bits" not in some.finding.headline


def test_the_weight_swap_is_one_hot_on_the_trained_attention(swapped):
    index = {str(part): k for k, part in enumerate(swapped.parts)}
    planted = [index["layer 2"], index["attn 2"]]
    others = [k for k in index.values() if k not in planted]
    assert not swapped.written[..., others].any()
    assert swapped.unchanged[others].all()
    for direction in swapped.directions:
        np.testing.assert_allclose(swapped.recoveries(direction, of="written").value[planted], 1.0, atol=1e-5)
    assert swapped.finding.found
    assert swapped.finding.headline.count("layer 2 100% (in finer parts: attn 2") == 2


def moved_at_random(pair, *, seed=12):
    """The sham that matters: moved as far as the real judge, in a random direction, which moves all items alike."""
    return random_delta_pair(pair, seed=seed)


def small_sweep(pair, items):
    return cross_model_patching.run(
        pair, items, sites=("attn_out", "mlp_out"), last_k=1, mass=False, named=0, progress=False
    )


def small_swap(pair, items):
    return cross_model_patching.swap_weights(
        pair, items, granularity=("module",), compare=False, grafts=False, progress=False
    )


@pytest.mark.parametrize("find", [small_sweep, small_swap])
def test_random_changes_name_nothing(find, confined, known):
    result = find(moved_at_random(confined), known)
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found: random changes of the same size")


@pytest.mark.parametrize("find", [small_sweep, small_swap])
def test_one_model_twice_names_nothing(find, confined, known):
    result = find(identical_pair(confined), known[:4])
    assert not result.finding.found
    assert not (result.effect if find is small_sweep else result.written).any()


def lens(pair, items):
    return cross_model_patching.verdict_lens(pair, items, aggregate=False, progress=False)


def paths(pair, items):
    return cross_model_patching.trace_paths(pair, items, n_receivers=2, hops=1, progress=False)


def mask(pair, items):
    return cross_model_patching.learn_mask(
        pair, items, sites=("attn_out", "mlp_out"), lambdas=(0.01, 0.1), steps=15, draws=20, progress=False
    )


def circuit(pair, items):
    return cross_model_patching.circuit(pair, items, sites=("attn_out", "mlp_out"), progress=False)


def screen(pair, items):
    return cross_model_patching.screen(pair, items, sites=("attn_out", "mlp_out"), recheck=4, last_k=1, progress=False)


def order(pair, items):
    return cross_model_patching.contrast(
        pair, items, "order", sites=("attn_out", "mlp_out"), last_k=1, named=2, progress=False
    )


def position(pair, items):
    return cross_model_patching.locate_bias(
        pair, items, "position", sites=("attn_out", "mlp_out"), last_k=1, random_sets=5, progress=False
    )


PARTS = (small_sweep, small_swap, lens, paths, mask, circuit, screen, order, position)


@pytest.mark.slow
@pytest.mark.parametrize("find", PARTS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("where", ["demo", "confined"])
def test_hardly_any_random_change_is_called_found(find, where, request):
    """A test at 5% is wrong now and then, but not for two changes of three."""
    pair = request.getfixturevalue(where)
    items = request.getfixturevalue("mixed" if where == "demo" else "known")
    found = [find(moved_at_random(pair, seed=seed), items).finding.found for seed in range(10, 13)]
    assert sum(found) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("find", PARTS, ids=lambda part: part.__name__)
def test_one_model_twice_names_nothing_in_any_part(find, confined, known):
    result = find(identical_pair(confined), known[:8])
    assert not result.finding.found
    assert result.finding.headline.startswith("Nothing found")


@pytest.mark.slow
def test_other_parts_agree_with_where_it_was_trained(confined, known):
    traced = paths(confined, known)
    assert traced.finding.found
    below = [k for k, sender in enumerate(traced.edge_senders) if Site.parse(sender).layer < PLANTED]
    assert below
    assert not traced.effect[..., below].any()
    read = lens(confined, known)
    assert read.finding.found
    apart = (read.own("judge") - read.own("base")).any((0, 1))
    np.testing.assert_array_equal(apart, read.depths >= PLANTED)
    turned = order(confined, known)
    assert turned.finding.headline.startswith("Fine-tuning turned round what the order of the answers does")
    named = position(confined, known)
    assert not named.finding.found
    assert not any(entry.name.startswith("share") for entry in named.finding.estimates)
