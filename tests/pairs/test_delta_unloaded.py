"""A pair checked from its files: the same table as the loaded pair's, as far as it goes."""

import pytest
import torch
from transformers import PreTrainedModel

from tests.pairs.test_delta import lora_folder
from workbench.errors import CheckpointError, PairMismatch
from workbench.pairs import check_files, load_pair
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("unloaded")
    base = tiny_model()
    for name, model in (
        ("base", base),
        ("judge", tuned_copy(base, change=scaled_noise(0.05))),
        ("wide", tiny_model(width=64)),
    ):
        model.save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    byte_tokenizer().save_pretrained(lora_folder(base, root / "adapter"))
    return root


@pytest.mark.parametrize("judge", ["judge", "adapter"])
def test_files_say_what_the_loaded_pair_says(folders, judge, monkeypatch):
    pair = load_pair(folders / "base", folders / judge, format="pairwise", doctor=False, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "from_pretrained", lambda *a, **k: pytest.fail("a model was loaded"))
        checked = check_files(folders / "base", folders / judge)
    loaded = {guard.name: guard for guard in pair.report.guards}
    for guard in checked.report.guards:
        if guard.name != "models":
            assert (guard.status, guard.value) == (loaded[guard.name].status, loaded[guard.name].value)
    assert {"vocabulary", "changed tensors", "judge derives from base", "models"} <= {
        g.name for g in checked.report.guards
    }
    assert checked.delta.relative == pytest.approx(pair.delta().relative, rel=1e-6)


def test_an_embedded_pair_is_found_by_name():
    checked = check_files("demo", spectrum=False)
    assert checked.report.comparable
    assert checked.delta.moved


def test_what_may_not_be_compared_is_refused_with_the_table(folders):
    with pytest.raises(PairMismatch, match="width: base 32, judge 64") as refused:
        check_files(folders / "base", folders / "wide")
    assert not refused.value.report.comparable
    with pytest.raises(PairMismatch, match="no weight differs"):
        check_files(folders / "base", folders / "base")
    assert check_files(folders / "base", folders / "base", allow_identical=True).report.comparable


def test_what_is_missing_is_named(folders, tmp_path):
    with pytest.raises(CheckpointError, match="needs a judge"):
        check_files(folders / "base")
    tiny_model().save_pretrained(tmp_path / "bare")
    tuned_copy(tiny_model(), change=scaled_noise(0.05)).save_pretrained(tmp_path / "judge")
    with pytest.raises(CheckpointError, match="neither folder brings a tokenizer"):
        check_files(tmp_path / "bare", tmp_path / "judge")


def test_nothing_global_is_left_behind(folders):
    before = torch.empty(1).device
    check_files(folders / "base", folders / "judge")
    assert torch.empty(1).device == before
