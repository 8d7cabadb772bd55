"""The world's byte-level BPE tokenizer: any text goes in and comes out again."""

from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from workbench.organisms.documents import REMARKS, VERDICTS, Mix, relation_words
from workbench.organisms.world import World

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
"""Ids of the special tokens: the trainer numbers them first, in this order."""

VOCAB_SIZE = 1024
CONTEXT_WINDOW = 512

_DOCUMENTS = 4000
_WORD_REPEATS = 200


def train_tokenizer(world: World, *, mix: Mix, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents of the base's mix.

    Args:
        world: Where the documents come from.
        mix: The base's reading; novelties of the judge are no part of it, so their words stay in pieces.
        seed: Decides the documents read.

    Returns:
        A tokenizer that puts the beginning-of-text token before every text and knows every word of the world.
    """
    rng = Random(f"tokenizer/{world.seed}/{seed}")
    texts = [mix.write(world, rng=rng).text for _ in range(_DOCUMENTS)]
    texts += [f" {word}" for word in relation_words()] * _WORD_REPEATS
    texts += [*VERDICTS, *REMARKS] * _WORD_REPEATS
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONTEXT_WINDOW,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
