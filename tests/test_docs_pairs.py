"""Every block of docs/pairs.md runs, in order, on folders prepared as it names them, with the network off."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForSequenceClassification

from workbench.pairs.tiny import byte_tokenizer, scaled_noise, tiny_model, tuned_copy

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
TEMPLATES = {
    "my-base": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    "my-judge": "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}",
}
COMMIT = "c0ffee" + "0" * 34


def written(folder, module, tokenizer=None):
    """Save a model with its tokenizer."""
    tokenizer = tokenizer or byte_tokenizer()
    tokenizer.chat_template = TEMPLATES.get(folder.name)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = tiny_model(width=64)
        judge = tuned_copy(base, change=scaled_noise(0.05))
        written(root / "my-base", base)
        written(root / "another-base", tiny_model(width=64, seed=9))
        written(root / "my-judge", judge)
        snapshot = root / "hf" / "hub" / "models--owner--judge"
        written(snapshot / "snapshots" / COMMIT / "final", judge)
        (snapshot / "refs").mkdir()
        (snapshot / "refs" / "v1").write_text(COMMIT)
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([f"<note{i}>" for i in range(6)])  # three of them beyond the base's spare rows
        grown = tuned_copy(judge, change=scaled_noise(0.0))
        grown.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        written(root / "my-judge-with-tokens", grown, tokenizer)
        wrapped = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(std=0.1)
        wrapped.save_pretrained(root / "my-lora")
        plain = {k: v for k, v in base.config.to_dict().items() if k not in ("architectures", "model_type")}
        reward = LlamaForSequenceClassification(LlamaConfig(**plain, num_labels=1))
        written(root / "my-reward-model", reward)
    yield root
    shutil.rmtree(root)


@pytest.mark.slow
def test_every_block_runs(prepared):
    blocks = [block for block in BLOCKS if find_spec("bitsandbytes") or "quantization=" not in block]
    (prepared / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HOME": str(prepared / "hf"),
        "HF_HUB_CACHE": str(prepared / "hf" / "hub"),
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT),
    }
    out = subprocess.run(
        [sys.executable, "page.py"],
        cwd=prepared,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert out.returncode == 0, out.stderr[-4000:]
    for said in ("may be compared", COMMIT, "my-judge was tuned from my-base", "lora", "equivalent within 0.01 nats"):
        assert said in out.stdout, f"{said!r} is not in {out.stdout}"
    assert "keys and values" in out.stdout


def test_every_kind_of_judge_is_shown_in_a_few_lines():
    assert len(BLOCKS) >= 15
    for block in BLOCKS:
        lines = [line for line in block.splitlines() if line.strip() and not line.startswith(("from ", "import ", ")"))]
        assert len(lines) <= 3, block


def test_every_figure_of_the_page_is_there():
    figures = re.findall(r"!\[[^\]]+\]\((figures/[^)]+)\)", PAGE)
    assert figures == ["figures/pairs-delta.png"]
    assert all((ROOT / "docs" / figure).is_file() for figure in figures)
