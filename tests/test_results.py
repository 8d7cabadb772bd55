"""What results share: tidy vocabulary, folders written in one move, read without pickle."""

import json
import math

import numpy as np
import pytest

from workbench.errors import ParameterError, ResultError
from workbench.results import Estimate, Finding, RunMeta, frozen_array, load_folder, save_folder, tidy

META = RunMeta(
    analysis="x", pair={"name": "p"}, items={"n": 2}, parameters={"a": 1}, seed=0, n_items=2, dtype="float32",
    attention="sdpa", device="cpu", warnings=("w",), not_measured=("m",),
)  # fmt: skip


def test_a_folder_comes_back_as_it_was(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 2)), "nan": np.array([np.nan])}
    save_folder(tmp_path / "r", kind="K", arrays=arrays, labels={"items": ["i", "<b>"]}, meta=META)
    stored = load_folder(tmp_path / "r", kind="K")
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored.arrays[name], array)
        assert not stored.arrays[name].flags.writeable
    assert stored.labels == {"items": ["i", "<b>"]}
    assert stored.meta.warnings == ("w",)
    assert math.isnan(stored.meta.wall_time_s)


def test_nothing_else_is_ever_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(ResultError, match="not overwritten"):
        save_folder(tmp_path, kind="K", arrays={}, labels={}, meta=META)
    assert (tmp_path / "thesis.txt").read_text() == "keep me"
    save_folder(tmp_path / "r", kind="K", arrays={"a": np.ones(1)}, labels={}, meta=META)
    save_folder(tmp_path / "r", kind="K", arrays={"a": np.zeros(1)}, labels={}, meta=META)
    assert load_folder(tmp_path / "r", kind="K").arrays["a"] == [0.0]


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        save_folder(tmp_path / "r", kind="K", arrays={}, labels={"x": math.nan}, meta=META)
    assert list(tmp_path.iterdir()) == []


def test_objects_are_refused_since_they_would_need_pickle(tmp_path):
    with pytest.raises(ResultError, match="without pickle"):
        save_folder(tmp_path / "r", kind="K", arrays={"o": np.array([{}], dtype=object)}, labels={}, meta=META)


@pytest.mark.parametrize("damage", ["result.json", "arrays.npz"])
def test_half_a_folder_is_refused(tmp_path, damage):
    folder = save_folder(tmp_path / "r", kind="K", arrays={}, labels={}, meta=META)
    (folder / damage).unlink()
    with pytest.raises(ResultError, match=damage):
        load_folder(folder, kind="K")


def test_another_kind_or_another_meta_is_refused(tmp_path):
    folder = save_folder(tmp_path / "r", kind="K", arrays={}, labels={}, meta=META)
    with pytest.raises(ResultError, match="another kind"):
        load_folder(folder, kind="Other")
    body = json.loads((folder / "result.json").read_text())
    body["meta"]["surprise"] = 1
    (folder / "result.json").write_text(json.dumps(body))
    with pytest.raises(ResultError, match="unknown fields"):
        load_folder(folder, kind="K")


def test_tidy_frames_have_known_columns_in_one_order():
    frame = tidy({"value": [1.0, 2.0], "metric": "m", "item": ["a", "b"]})
    assert list(frame.columns) == ["item", "metric", "value"]
    for wrong in ({"value": [1.0]}, {"metric": "m", "value": [1.0], "colour": "red"}):
        with pytest.raises(ParameterError):
            tidy(wrong)


def test_findings_put_the_headline_first_and_the_control_beside_the_number():
    null = Estimate(name="random", value=0.1, low=0.0, high=0.2, n=3)
    said = Finding(
        headline="Nothing found: so it is.",
        found=False,
        estimates=(
            Estimate(name="effect", value=math.nan, low=math.nan, high=math.nan, n=1, unit="logits", control=null),
        ),
        limits=("only three items",),
    ).text()
    assert said.splitlines()[0] == "Nothing found: so it is."
    assert "effect not defined logits [not defined, not defined], n=1; control: random 0.1 [0, 0.2], n=3" in said
    assert said.endswith("only three items")


def test_frozen_arrays_are_frozen_copies():
    source = np.ones(3)
    copy = frozen_array(source)
    source[0] = 5
    assert copy[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 2
