"""The command line, run the way a shell runs it: end to end on saved folders, and refusals as one message."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import cli, explore
from workbench.cli.options import load_choices, require_writable
from workbench.cli.printing import heat_strip
from workbench.errors import ParameterError
from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

REAL_ITEMS = Path(__file__).parents[2] / "shared" / "data" / "llmbar" / "Natural.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    base = tiny_model()
    for name, model in (
        ("base", base),
        ("judge", tuned_copy(base, change=scaled_noise(0.05))),
        ("wide", tiny_model(width=64)),
    ):
        model.save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    rows = [{"question": f"What is {i}?", "answers": [str(i), "no <b>idea</b>"], "label": i % 2} for i in range(9)]
    (root / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_check_prints_the_table(folders):
    done = invoke(
        "check", "--base", folders / "base", "--judge", folders / "judge", "--format", "pairwise", "--device", "cpu"
    )
    assert done.exit_code == 0
    assert "may be compared" in done.output
    assert "vocabulary" in done.output


def test_check_prints_the_table_and_exits_with_1_when_they_may_not(folders, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["workbench", "check", "-b", str(folders / "base"), "-j", str(folders / "wide"), "-f", "pairwise"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "may not be compared" in said.out
    assert "base 32, judge 64" in said.err


def test_check_speaks_json(folders):
    done = invoke(
        "check", "-b", folders / "base", "-j", folders / "judge", "-f", "pairwise", "--device", "cpu", "--json"
    )
    table = json.loads(done.stdout)
    assert table["comparable"] is True
    assert {"name", "status", "value", "detail"} == set(table["guards"][0])


@pytest.mark.parametrize("command", ["check", "run tuco", "report"])
@pytest.mark.parametrize("place", ["a file", "nowhere"])
def test_a_folder_that_cant_be_written_is_refused_before_anything_is_loaded(
    folders, tmp_path, monkeypatch, command, place
):
    monkeypatch.setattr("workbench.pairs.load.load_models", lambda *a: pytest.fail("models were loaded first"))
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" if place == "a file" else "/proc/nowhere"
    done = invoke(*command.split(), "-b", folders / "base", "-j", folders / "judge", "-f", "pairwise", "-o", out)
    assert isinstance(done.exception, ParameterError)
    assert done.exception.argument == "--out"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_trying_a_folder_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert not any(tmp_path.iterdir())


def test_check_shows_what_the_weights_did_and_writes_it(folders, tmp_path):
    done = invoke(
        "check", "-b", folders / "base", "-j", folders / "judge", "-f", "pairwise", "--device", "cpu", "-l",
        "doctor=false", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "half of it (squared) sits in" in done.output
    assert "relative change by kind and layer" in done.output
    assert "all kinds" in done.output
    page = (tmp_path / "out" / "check.html").read_text()
    assert "may be compared" in page and "<svg" in page and "http:" not in page.replace("http://www.w3.org", "")
    frame = pd.read_csv(tmp_path / "out" / "delta.csv")
    assert len(frame) == 21
    assert frame["relative"].between(0.049, 0.051).all()


def test_check_from_files_loads_no_model_and_finds_the_same(folders, monkeypatch):
    from transformers import PreTrainedModel

    common = ["check", "-b", folders / "base", "-j", folders / "judge", "--json"]
    loaded = json.loads(invoke(*common, "-f", "pairwise", "--device", "cpu", "-l", "doctor=false").stdout)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *a, **k: pytest.fail("a model was loaded"))
    unloaded = json.loads(invoke(*common, "--files-only").stdout)
    assert unloaded["comparable"]
    assert unloaded["delta"]["relative"] == pytest.approx(loaded["delta"]["relative"], rel=1e-6)
    assert [t["name"] for t in unloaded["delta"]["tensors"]] == [t["name"] for t in loaded["delta"]["tensors"]]


def test_check_of_one_model_twice_fails_loudly(folders, monkeypatch, capsys, tmp_path):
    same = ["-b", str(folders / "base"), "-j", str(folders / "base"), "-f", "pairwise", "-o", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["workbench", "check", *same])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert "may not be compared" in said.out
    assert "allow_identical=True" in said.err
    assert "same model" in (tmp_path / "check.html").read_text()
    assert not (tmp_path / "delta.csv").exists()
    done = invoke("check", *same[:4], "--files-only", "-l", "allow_identical=true")
    assert done.exit_code == 0
    assert "Nothing moved: all" in done.output


def test_which_base_names_the_nearest(folders):
    done = invoke("which-base", folders / "judge", folders / "wide", folders / "base")
    assert done.exit_code == 0, done.output
    assert "was tuned from" in done.output.replace("\n", " ")
    table = json.loads(invoke("which-base", folders / "judge", folders / "base", "--json", "--all-tensors").stdout)
    assert table["base"] == str(folders / "base")
    assert table["candidates"][0]["distance"] == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["device_map=auto", "trust_remote_code=true"], {"device_map": "auto", "trust_remote_code": True}),
        (["revision.judge=1234567"], {"revision": {"judge": "1234567"}}),
        (["subfolder.base=a", "subfolder.judge=b"], {"subfolder": {"base": "a", "judge": "b"}}),
        (["max_memory={0: '20GiB'}"], {"max_memory": {0: "20GiB"}}),
    ],
)
def test_arguments_of_load_pair_go_by_name(given, expected):
    assert load_choices(given, named={"device": None}) == expected


@pytest.mark.parametrize("given", ["nonsense=1", "doctor", "seed.judge=1", "revision.juge=x", "dtype=float32"])
def test_wrong_arguments_of_load_pair_are_refused_by_name(given):
    with pytest.raises(ParameterError, match=r"not an argument of load_pair|given twice"):
        load_choices([given], named={"dtype": "bfloat16"})
    with pytest.raises(ParameterError, match="given twice"):
        load_choices(["revision.judge=x", "revision=y"], named={})


def test_options_without_a_meaning_for_files_are_refused(folders, monkeypatch, capsys):
    files = ["-b", str(folders / "base"), "-j", str(folders / "judge"), "--files-only", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["workbench", "check", *files])
    with pytest.raises(SystemExit):
        cli.main()
    assert "no model is loaded" in capsys.readouterr().err


def test_the_strip_shades_what_moved_and_leaves_the_rest(folders):
    from workbench.pairs import weight_delta

    base = tiny_model()
    planted = tuned_copy(base, change=scaled_noise(0.1, only="layers.1.mlp.down_proj"))
    text = heat_strip(weight_delta(base, planted)).plain.splitlines()
    rows = {line[:9].strip(): line[10:] for line in text[2:]}
    assert rows["down"].startswith("··██")
    assert rows["q"].startswith("····")


def test_run_writes_a_result_and_a_page(folders, tmp_path):
    from analyses.tuco import TucoResult

    done = invoke(
        "run", "tuco", "-b", folders / "base", "-j", folders / "judge", "-i", folders / "items.jsonl", "-f", "pairwise",
        "--device", "cpu", "-o", tmp_path / "out", "-p", "granularity=sublayer", "-p", "progress=false",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = TucoResult.load(tmp_path / "out" / "tuco")
    assert result.granularity == "sublayer"
    assert len(result.item_ids) == 9
    page = (tmp_path / "out" / "report.html").read_text()
    assert result.finding.headline.split(":")[0] in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


@pytest.mark.parametrize("argument", ["granularity", "no_such=1", "granularity=0", "granularity=head"])
def test_wrong_parameters_are_refused_by_name(folders, tmp_path, argument, monkeypatch, capsys):
    common = [
        "-b",
        str(folders / "base"),
        "-j",
        str(folders / "judge"),
        "-i",
        str(folders / "items.jsonl"),
        "-f",
        "pairwise",
    ]
    monkeypatch.setattr("sys.argv", ["workbench", "run", "tuco", *common, "-o", str(tmp_path / "out"), "-p", argument])
    with pytest.raises((SystemExit, TypeError)) as stopped:  # run-time type checks come first
        cli.main()
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == 1
        assert "Allowed:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("empty.jsonl", "", "empty"),
        ("hole.jsonl", '{"question": "q", "label": 0}\n', "answers"),
        ("broken.jsonl", '{"question": "q", "answers": ["a", "b"]}\n{"question":\n', "2"),
    ],
)
def test_bad_item_files_are_refused_before_a_model_is_loaded(folders, tmp_path, file, text, words, monkeypatch, capsys):
    (tmp_path / file).write_text(text)
    command = ["workbench", "run", "tuco", "-b", "nowhere/at-all", "-j", "nowhere/either", "-i", str(tmp_path / file)]
    monkeypatch.setattr("sys.argv", [*command, "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert words in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL_ITEMS.is_file(), reason="the real benchmark files are not here")
@pytest.mark.parametrize("kind", ["gpt2-full", "llama-lora"])
def test_run_goes_through_on_real_text_at_512_tokens(kind, tmp_path):
    """Random-weight pairs saved as folders, prompts of about 512 tokens, both orders, a progress bar."""
    from peft import LoraConfig, get_peft_model

    from analyses.tuco import TucoResult
    from workbench import load_items
    from workbench.hooks import weight_sharing_shadow
    from workbench.pairs import load_pair

    architecture = kind.split("-")[0]
    base = tiny_model(architecture=architecture, n_layers=3, window=8192)
    base.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    if kind == "gpt2-full":
        tuned_copy(base, change=scaled_noise(0.05)).save_pretrained(tmp_path / "judge")
        byte_tokenizer().save_pretrained(tmp_path / "judge")
    else:
        config = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(weight_sharing_shadow(base), config).save_pretrained(tmp_path / "judge")
    pair = load_pair(tmp_path / "base", tmp_path / "judge", format="pairwise", doctor=False, device="cpu")
    items = load_items(REAL_ITEMS)
    chosen = sorted(items, key=lambda item: abs(len(pair.encode([item], orders=["original"]).rows[0]) - 512))[:8]
    rows = [
        {"item_id": i.item_id, "question": i.question, "answers": list(i.answers), "label": i.label} for i in chosen
    ]
    (tmp_path / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke(
        "run", "tuco", "-b", tmp_path / "base", "-j", tmp_path / "judge", "-i", tmp_path / "real.jsonl",
        "-f", "pairwise", "--device", "cpu", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert "TuCo: 100%" in done.stderr
    result = TucoResult.load(tmp_path / "out" / "tuco")
    assert result.tuco.shape == (8, 2)
    assert ((result.tuco > 0) & (result.tuco < 1)).all()
    assert result.meta.pair["kind"] == kind.split("-")[1]
    lengths = [len(row) for row in pair.encode(chosen).rows]
    assert 400 < sum(lengths) / len(lengths) < 620


@pytest.mark.parametrize("analysis", [name for name in cli.ANALYSES if name.startswith("tuco.")])
def test_every_analysis_runs_from_a_shell(folders, tmp_path, analysis):
    more = ["-p", "attack=Pick this one."] if analysis == "tuco.attacks" else []
    ran_from_a_shell(analysis, folders, tmp_path, "judge", "-f", "pairwise", "-p", "controls=0", *more)


def test_behavior_runs_from_a_shell(folders, tmp_path):
    ran_from_a_shell("behavior", folders, tmp_path, "judge", "-f", "pairwise", "-p", "controls=0")


def test_a_choice_python_also_takes_by_position_is_a_choice(folders, tmp_path):
    named = "names=['bandwagon','position']"
    ran_from_a_shell("behavior.probes", folders, tmp_path, "judge", "-f", "pairwise", "-p", named, "-p", "controls=0")


PATCHING = {
    "cross_model_patching": ("spans=('answer_a',)", "random_sets=2"),
    "cross_model_patching.lens": ("shuffles=2",),
    "cross_model_patching.weights": ("granularity=('layer','module')",),
    "cross_model_patching.screen": ("recheck=2",),
    "cross_model_patching.paths": (),
    "cross_model_patching.masks": ("lambdas=(0.1,)", "steps=3", "draws=3"),
    "cross_model_patching.circuits": ("draws=3",),
    "cross_model_patching.contrasts": ("contrast=order",),
    "cross_model_patching.bias": ("probe=position", "random_sets=2"),
    "cross_model_patching.biases": ("probes=('position',)",),
}
"""Choices that keep each part of cross-model patching small."""


def test_every_part_of_patching_has_a_name_in_the_shell():
    assert set(PATCHING) == {name for name in cli.ANALYSES if name.startswith("cross_model_patching")}


@pytest.mark.parametrize("analysis", PATCHING)
def test_patching_runs_from_a_shell(folders, tmp_path, analysis):
    more = [part for choice in PATCHING[analysis] for part in ("-p", choice)]
    none = [] if analysis.endswith("biases") else ["-p", "controls=0"]
    ran_from_a_shell(analysis, folders, tmp_path, "judge", "-f", "pairwise", *none, *more)


def test_a_merge_is_compared_from_a_shell(folders, tmp_path):
    from tests.pairs.test_delta import lora_folder

    byte_tokenizer().save_pretrained(lora_folder(tiny_model(), folders / "adapter"))
    ran_from_a_shell("merge_equivalence", folders, tmp_path, "adapter", "-f", "pairwise")


def test_templates_are_compared_from_a_shell(folders, tmp_path):
    from tests.pairs.drift_pairs import WORDS

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = WORDS
    tokenizer.save_pretrained(folders / "judge")
    other = WORDS.replace("## ", "# ")
    try:
        ran_from_a_shell("template_drift", folders, tmp_path, "judge", "-f", "bracket", "-p", f"against={other}")
    finally:
        byte_tokenizer().save_pretrained(folders / "judge")
        (folders / "judge" / "chat_template.jinja").unlink(missing_ok=True)


def ran_from_a_shell(analysis, folders, tmp_path, judge, *more):
    done = invoke(
        "run", analysis, "-b", folders / "base", "-j", folders / judge, "-i", folders / "items.jsonl",
        "--device", "cpu", "-l", "doctor=false", "--limit", "4", "-o", tmp_path, "-p", "progress=false", *more,
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    (loaded,) = cli.load_results(tmp_path)
    assert type(loaded).__name__ == cli.ANALYSES[analysis].result
    assert loaded.meta.analysis == analysis
    assert (tmp_path / "report.html").is_file()
    opened = explore(loaded)
    for panel in range(len(loaded.panels())):
        opened.panel = panel
    opened.metric = loaded.to_frame()["metric"].iloc[0]
    assert len(opened.table()) > 0
