"""Do both models mean the same by a token, and are they asked in the same words?"""

from transformers import PreTrainedTokenizerBase

from workbench.pairs.fingerprint import template_text, text_fingerprint
from workbench.pairs.report import Guard


def tokenizer_guards(base: PreTrainedTokenizerBase | None, judge: PreTrainedTokenizerBase, rows: int) -> list[Guard]:
    """Compare the two tokenizers: ids, added and special tokens, chat template, and the model's vocabulary rows.

    Args:
        base: The base's own tokenizer; None when one tokenizer was given for both.
        judge: The tokenizer every prompt is encoded with.
        rows: Number of rows of the embedding matrix.
    """
    guards = [_ids_fit(judge, rows)]
    if base is None:
        return [*guards, Guard(name="tokenizer drift", status="ok", value="one tokenizer serves both")]
    return [*guards, _vocabulary_drift(base, judge), _special_tokens(base, judge), _chat_template(base, judge)]


def _ids_fit(tokenizer: PreTrainedTokenizerBase, rows: int) -> Guard:
    largest = max(tokenizer.get_vocab().values(), default=-1)
    fits = largest < rows
    return Guard(
        name="tokenizer fits the model",
        status="ok" if fits else "fail",
        value=f"largest id {largest}, {rows} embedding rows",
        detail="" if fits else "Give the tokenizer that was saved with the judge.",
    )


def _vocabulary_drift(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = base.get_vocab(), judge.get_vocab()
    moved = [t for t, i in left.items() if t in right and right[t] != i]
    lost, added = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    if moved or lost:
        return Guard(
            name="vocabulary",
            status="fail",
            value=f"{len(moved)} tokens have other ids, {len(lost)} are missing in the judge: {(moved + lost)[:3]}",
            detail="Base and judge must share a tokenizer; one id must mean one token in both.",
        )
    if added:
        return Guard(
            name="vocabulary",
            status="warn",
            value=f"the judge adds {len(added)} tokens, e.g. {added[:3]}",
            detail="Their embeddings in the base are untrained.",
        )
    return Guard(name="vocabulary", status="ok", value=f"{len(left)} tokens, same ids")


def _special_tokens(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = ({k: str(v) for k, v in t.special_tokens_map.items()} for t in (base, judge))
    changed = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
    value = "; ".join(f"{k}: {left.get(k)} -> {right.get(k)}" for k in changed) or "same"
    detail = "Prompts are encoded with the judge's tokenizer for both." if changed else ""
    return Guard(name="special tokens", status="warn" if changed else "ok", value=value, detail=detail)


def _chat_template(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = template_text(base), template_text(judge)
    if left == right:
        return Guard(
            name="chat template", status="ok", value="none" if right is None else f"same ({text_fingerprint(right)})"
        )
    return Guard(
        name="chat template",
        status="warn",
        value="the base has none" if left is None else "the judge has none" if right is None else "they differ",
        detail="Both models get the judge's template.",
    )
