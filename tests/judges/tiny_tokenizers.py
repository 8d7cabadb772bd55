"""Real tokenizers small enough to read: each has one property that has broken verdict readouts before."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
SHOUTING = CHATML.replace("m['content']", "m['content'] | upper")
DROPPING = CHATML.replace(
    "{{ m['content'] }}", "{% if m['role'] == 'user' and loop.length > 9 %}{{ m['content'] }}{% endif %}"
)
ONLY_USER = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def byte_level(merges=(("Ġ", "A"), ("Ġ", "B")), *, n_bos=0, chat=None, straddle=False) -> PreTrainedTokenizerFast:
    """Byte-level BPE; joins a space with A and B, as every byte-level tokenizer of a real model does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + ["".join(pair) for pair in merges]
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not straddle)
    core.decoder = decoders.ByteLevel()
    return _finished(core, n_bos=n_bos, chat=chat)


def metaspace(*, words=("▁A", "▁B", "▁the"), n_bos=1, chat=None) -> PreTrainedTokenizerFast:
    """Unigram with the sentencepiece space mark, a dummy space in front and bytes for what it doesn't know."""
    text = [chr(code) for code in range(33, 127)] + ["\n", "▁"]
    vocab = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    vocab += [(piece, -9.0) for piece in text] + [(word, -4.0) for word in words]
    core = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(core, n_bos=n_bos, chat=chat)


def _finished(core, *, n_bos, chat) -> PreTrainedTokenizerFast:
    core.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")]
    )
    if n_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> " * n_bos + "$A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = chat
    return tokenizer


class SlowTokenizer:
    """A tokenizer without offsets: characters, with `` A`` and `` B`` joined; optionally lossy at line breaks."""

    is_fast = False
    chat_template = None
    bos_token_id = 1
    eos_token_id = 2
    pad_token_id = None
    all_special_ids = (1, 2)

    def __init__(self, *, joins=(" A", " B")) -> None:
        self.joins = joins

    def __call__(self, text, *, add_special_tokens=True, verbose=True):
        if isinstance(text, list):
            return {"input_ids": [self._ids(one, add_special_tokens) for one in text]}
        return {"input_ids": self._ids(text, add_special_tokens)}

    def decode(self, ids):
        return "".join(self.joins[i - 3] if i - 3 < len(self.joins) else chr(i - 3 - len(self.joins)) for i in ids)

    def _ids(self, text, special):
        ids, at = [1] if special else [], 0
        while at < len(text):
            joined = next((k for k, piece in enumerate(self.joins) if text.startswith(piece, at)), None)
            ids.append(3 + joined if joined is not None else 3 + len(self.joins) + ord(text[at]))
            at += 1 if joined is None else len(self.joins[joined])
        return ids
