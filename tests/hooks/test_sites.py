import pytest

from workbench.errors import UnknownSite
from workbench.hooks import Component, Site


@pytest.mark.parametrize("text", ["resid_pre.0", "mlp_out.31", "z.2.h5", "k.10.h0"])
def test_names_are_read_back(text):
    assert str(Site.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "z", "z.-1", "z.1.5", "blocks.1.hook_z", "resid.1", "resid_pre.1.h2", "z.1.h2 z.2"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(UnknownSite):
        Site.parse(text)


def test_sites_sort_in_the_order_a_block_runs_and_hash_by_value():
    names = ["resid_pre.1", "resid_post.0", "z.0.h1", "z.0", "z.0.h0", "resid_pre.0"]
    ordered = sorted(map(Site.parse, names))
    assert [str(site) for site in ordered] == ["resid_pre.0", "resid_post.0", "z.0", "z.0.h0", "z.0.h1", "resid_pre.1"]
    assert len({Site(Component.Z, 1), Site.parse("z.1"), Site(Component.Z, 1, 0)}) == 2


def test_text_is_not_a_component():
    # A TypeError where annotations are checked at run time.
    with pytest.raises((UnknownSite, TypeError)):
        Site("hook_q", 3)
    with pytest.raises(UnknownSite, match="resid_pre"):
        Site.parse("hook_q.3")
