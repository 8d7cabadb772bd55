"""Do both models mean the same by a token, and are they asked in the same words?"""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.pairs.fingerprint import template_text, text_fingerprint
from workbench.pairs.report import Guard
from workbench.pairs.vocabulary import Vocabulary

_PROBES = (
    "Which answer is better?", " leading space", "two  spaces", "a\n\nb\tc\r\n", "Answer A: 12345, 3.14 and 0x1F",
    "don't", "naïve café", "e\u0301 against é", "ﬁ ½ Ｆｕｌｌ", "Привет, мир", "مرحبا بالعالم", "שלום", "नमस्ते",
    "你好，世界", "こんにちは", "안녕하세요", "👩‍👩‍👧 ok", "for i in range(3):\n    x[i] += 1", "[[A]]", "",
)  # fmt: skip
"""Texts on which tokenizers differ when a normaliser, a prefix space, digit groups or merges differ."""

TEMPLATE_ROW = "template in force"
"""Name of the row of :func:`template_guard`."""

_EXCERPT = 3
_WIDTH = 90


def tokenizer_guards(
    base: PreTrainedTokenizerBase | None, judge: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> list[Guard]:
    """Compare the two tokenizers: ids, rows, special tokens, what the same text becomes, chat template.

    Args:
        base: The base's own tokenizer; None when one tokenizer was given for both.
        judge: The tokenizer every prompt is encoded with.
        vocabulary: Rows of both models and the tokens that have none.
    """
    guards = [_ids_fit(judge, vocabulary), _rows(vocabulary)]
    if base is None:
        return [*guards, Guard(name="tokenizer drift", status="ok", value="one tokenizer serves both")]
    return [
        *guards,
        _ids(base, judge),
        _special_tokens(base, judge),
        _around_a_text(base, judge),
        _same_text(base, judge),
        _chat_template(base, judge),
    ]


def template_guard(name: str, template: object) -> Guard:
    """Say that a pair is asked with another template than the judge's own.

    Args:
        name: Whose template it is.
        template: The template; None for none.
    """
    shown = "none" if template is None else text_fingerprint(str(template))
    return Guard(
        name=TEMPLATE_ROW,
        status="warn",
        value=f"{name} ({shown})",
        detail="Both models are asked with it, instead of with the template the judge came with.",
    )


def template_excerpt(left: str | None, right: str | None) -> tuple[str, ...]:
    """Return the first lines that differ between two templates, ``- left`` and ``+ right``, on one printable line each.

    Args:
        left: A template; None for none.
        right: Another one.
    """
    before, after = (_lines(text or "") for text in (left, right))
    lines = [
        line
        for line in difflib.unified_diff(before, after, n=0, lineterm="")
        if line[0] in "+-" and not line.startswith(("---", "+++"))
    ]
    kept = [line for sign in "-+" for line in [x for x in lines if x[0] == sign][:_EXCERPT]]
    more = [f"... {len(lines) - len(kept)} more lines differ"] if len(lines) > len(kept) else []
    return (*(_printable(line) for line in kept), *more)


def _ids_fit(tokenizer: Any, vocabulary: Vocabulary) -> Guard:
    beyond = vocabulary.beyond_judge
    largest = max(tokenizer.get_vocab().values(), default=-1)
    value = f"largest id {largest}, {vocabulary.judge_rows} rows in the judge"
    name = "tokenizer fits the model"
    if not beyond:
        return Guard(name=name, status="ok", value=value)
    if set(beyond) - set(tokenizer.get_added_vocab()):
        return Guard(name=name, status="fail", value=value, detail="Give the tokenizer that was saved with the judge.")
    return Guard(
        name=name,
        status="warn",
        value=f"{value}: {_few(beyond)} added to the tokenizer only",
        detail="The judge was never given rows for them; a prompt that uses one is refused.",
    )


def _rows(vocabulary: Vocabulary) -> Guard:
    base, judge, added = vocabulary.base_rows, vocabulary.judge_rows, vocabulary.beyond_base
    name = "vocabulary rows"
    value = str(base) if base == judge else f"base {base}, judge {judge}"
    if not added:
        detail = "" if base == judge else "No token needs the others; distributions are compared over the shared rows."
        return Guard(name=name, status="ok", value=value, detail=detail)
    policies = {
        "refuse": ("prompts that use one are refused", "load_pair(..., added_tokens='mean' or 'judge') gives the base "
                   "rows for them."),
        "mean": ("the base reads them as the mean of its own rows", "What the judge learnt of them counts as tuning."),
        "judge": ("the base reads them by the judge's rows", "Their embedding doesn't count as fine-tuning."),
    }  # fmt: skip
    what, detail = policies[vocabulary.added_tokens]
    return Guard(name=name, status="warn", value=f"{value}: {_few(added)} the base has no row for; {what}",
                 detail=detail)  # fmt: skip


def _ids(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = base.get_vocab(), judge.get_vocab()
    if fatal := _contradictions(base, judge):
        return Guard(
            name="vocabulary",
            status="fail",
            value=fatal,
            detail="Base and judge must share a tokenizer; one id must mean one token in both.",
        )
    known, used = {i: t for t, i in left.items()}, set(right.values())
    renamed = [f"{known[i]} -> {t}" for t, i in right.items() if t not in left and i in known]
    added = sorted(t for t, i in right.items() if t not in left and i not in known)
    lost = sorted(t for t, i in left.items() if t not in right and i not in used)
    parts = [
        f"the judge adds {_few(added)}" if added else "",
        f"the judge renames {_few(renamed)}" if renamed else "",
        f"the judge's tokenizer lacks {_few(lost)}" if lost else "",
    ]
    if said := [part for part in parts if part]:
        return Guard(
            name="vocabulary",
            status="warn",
            value="; ".join(said),
            detail="In the base these ids are untrained, or mean something else; no other id differs.",
        )
    return Guard(name="vocabulary", status="ok", value=f"{len(left)} tokens, same ids")


def _contradictions(base: Any, judge: Any) -> str:
    """Say which ids mean two things; tokens that were only ever added may come, go and be renamed."""
    left, right = base.get_vocab(), judge.get_vocab()
    loose = {*base.get_added_vocab(), *base.all_special_tokens}
    reused = {right[t] for t in (*judge.get_added_vocab(), *judge.all_special_tokens) if t in right}
    moved = [t for t, i in left.items() if t in right and right[t] != i]
    lost = sorted(t for t, i in left.items() if t not in right and t not in loose and i not in reused)
    if not moved and not lost:
        return ""
    return f"{len(moved)} tokens have other ids, {len(lost)} are missing in the judge: {(moved + lost)[:3]}"


def _special_tokens(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = ({k: str(v) for k, v in t.special_tokens_map.items()} for t in (base, judge))
    changed = sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))
    value = "; ".join(f"{k}: {left.get(k)} -> {right.get(k)}" for k in changed) or "same"
    detail = "Prompts are encoded with the judge's tokenizer for both." if changed else ""
    return Guard(name="special tokens", status="warn" if changed else "ok", value=value, detail=detail)


def _around_a_text(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    """Compare what each tokenizer puts before and after a text by itself."""
    shown = [_wrapping(tokenizer) for tokenizer in (base, judge)]
    same = shown[0] == shown[1]
    return Guard(
        name="tokens put around a text",
        status="ok" if same else "warn",
        value=shown[0] if same else f"base {shown[0]}, judge {shown[1]}",
        detail="" if same else "Both models are asked as the judge's tokenizer writes, which isn't how the base was.",
    )


def _wrapping(tokenizer: PreTrainedTokenizerBase) -> str:
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    at = next((k for k in range(len(full) - len(bare) + 1) if full[k : k + len(bare)] == bare), None)
    if at is None:
        return "writes a text differently between special tokens"
    return " ".join([*_names(tokenizer, full[:at]), "text", *_names(tokenizer, full[at + len(bare) :])])


def _names(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]


def _same_text(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    """Compare ids of probe texts: a normaliser or a prefix space changes them while the vocabulary stays."""
    written = [[tuple(t(text, add_special_tokens=False)["input_ids"]) for text in _PROBES] for t in (base, judge)]
    other = [k for k, pair in enumerate(zip(*written, strict=True)) if pair[0] != pair[1]]
    name = "same text, same ids"
    if not other:
        return Guard(name=name, status="ok", value=f"{len(_PROBES)} probe texts in several scripts")
    k = other[0]
    tokens = [_names(t, ids[k]) for t, ids in ((base, written[0]), (judge, written[1]))]
    return Guard(
        name=name,
        status="warn",
        value=f"{len(other)} of {len(_PROBES)} probe texts differ, e.g. {_PROBES[k]!r}: "
        f"base {_clipped(str(tokens[0]))}, judge {_clipped(str(tokens[1]))}",
        detail="The base is asked in the judge's tokens, which it wouldn't have written itself.",
    )


def _chat_template(base: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> Guard:
    left, right = template_text(base), template_text(judge)
    if left == right:
        return Guard(
            name="chat template", status="ok", value="none" if right is None else f"same ({text_fingerprint(right)})"
        )
    if left is None or right is None:
        value = "the base has none" if left is None else "the judge has none"
    else:
        value = f"they differ: {' | '.join(template_excerpt(left, right))}"
    return Guard(
        name="chat template",
        status="warn",
        value=value,
        detail="Both models get the judge's unless another is in force; pair.with_template('base') asks with the "
        "other, and the analysis template_drift says what it does.",
    )


def _lines(template: str) -> list[str]:
    """Cut a template at its statements and line breaks, so that a template on one line shows what differs too."""
    return [part for line in template.splitlines() for part in re.split(r"(?=\{[%{])", line) if part.strip()]


def _printable(text: str) -> str:
    return _clipped("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _clipped(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def _few(tokens: Sequence[str]) -> str:
    count = f"{len(tokens)} token{'' if len(tokens) == 1 else 's'}"
    return f"{count} ({', '.join(map(repr, tokens[:3]))}{', ...' if len(tokens) > 3 else ''})"
