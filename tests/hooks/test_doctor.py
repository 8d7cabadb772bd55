"""The doctor passes healthy models and notices sick ones."""

import pytest
import torch

from tests.tiny_models import ARCHITECTURES, random_batch, tiny_model, tiny_tokenizer
from workbench.hooks import Anatomy, Component, Site, doctor
from workbench.hooks.torch_backend import HooksBackend


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_healthy_models_pass(labs, architecture):
    lab = labs(architecture)
    checks = doctor.examine(lab.model, lab.tokenizer, anatomy=lab.anatomy)
    assert [check.name for check in checks if check.status != "ok"] == []
    assert len(checks) == 11
    moved = next(check for check in checks if check.name == "a real edit moves the logits")
    assert moved.value > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_and_says_why_it_may_drift(dtype):
    checks = doctor.examine(tiny_model("llama").to(dtype), tiny_tokenizer())
    assert {check.status for check in checks} <= {"ok", "warn"}
    assert any("eager attention" in check.detail for check in checks)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_passes_and_says_where_padding_was_left_out(architecture):
    checks = doctor.examine(tiny_model(architecture).double(), tiny_tokenizer())
    found = {check.name: check for check in checks if check.status != "ok"}
    unpadded = {"a left-padded row equals the single prompt"} if architecture == "gemma2" else set()
    assert set(found) == {"padding, transformer_lens"} | unpadded
    assert {check.status for check in found.values()} == {"warn"}
    assert "NaN" in found["padding, transformer_lens"].detail
    assert all(check.value < 1e-9 for check in checks if check.name in ("captures, nnsight", "logits, nnsight"))


def test_what_stands_at_padding_is_no_reason_to_fail(monkeypatch):
    run = HooksBackend.run

    def unread(self, batch, **kwargs):
        result = run(self, batch, **kwargs)
        if result.logits is not None and result.logits.ndim == 3:
            result.logits[~batch.mask] = float("nan")
        return result

    monkeypatch.setattr(HooksBackend, "run", unread)
    checks = doctor.examine(tiny_model("llama"), None)
    assert [check.name for check in checks if check.status == "fail"] == []


def test_a_chosen_batch_and_tolerance_are_used(labs):
    lab = labs("llama")
    checks = doctor.examine(lab.model, lab.tokenizer, anatomy=lab.anatomy, batch=random_batch((5, 5)), tolerance=1e-12)
    found = {check.name: check for check in checks}
    assert found["a left-padded row equals the single prompt"].status == "warn"
    assert found["logits, transformer_lens"].status == "fail"
    assert "use none of them" in found["logits, transformer_lens"].detail
    assert found["logits, nnsight"].status == "ok"


def test_without_a_tokenizer_nnsight_is_left_out_and_it_says_so(labs):
    checks = doctor.examine(labs("llama").model, None, anatomy=labs("llama").anatomy)
    assert [(check.name, check.status) for check in checks if check.status != "ok"] == [("nnsight", "warn")]


def test_a_wrong_map_is_noticed():
    model = tiny_model("llama")
    anatomy = Anatomy.of(model)
    ports = dict(anatomy.ports)
    ports[Site(Component.Q, 1)], ports[Site(Component.Z, 1)] = ports[Site(Component.Z, 1)], ports[Site(Component.Q, 1)]
    from dataclasses import replace

    checks = doctor.examine(model, None, anatomy=replace(anatomy, ports=ports))
    assert any(check.status == "fail" and check.name == "captures, transformer_lens" for check in checks)


def test_an_executor_that_alters_what_it_reads_is_noticed(monkeypatch):
    run = HooksBackend.run

    def drifting(self, batch, **kwargs):
        result = run(self, batch, **kwargs)
        if result.logits is not None and kwargs.get("edits"):
            result.logits.add_(1e-6)
        return result

    monkeypatch.setattr(HooksBackend, "run", drifting)
    checks = doctor.examine(tiny_model("llama"), None)
    assert next(check for check in checks if check.name.startswith("self-patch")).status == "fail"


def test_something_left_behind_is_noticed(monkeypatch):
    model = tiny_model("llama")
    run = HooksBackend.run

    def leaky(self, batch, **kwargs):
        self.module.model.norm.register_forward_hook(lambda *_: None)
        return run(self, batch, **kwargs)

    monkeypatch.setattr(HooksBackend, "run", leaky)
    checks = doctor.examine(model, None)
    assert next(check for check in checks if check.name == "nothing is left behind").status == "fail"
