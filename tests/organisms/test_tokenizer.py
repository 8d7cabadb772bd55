"""The tokenizer: whole words of the world, one token per verdict, and any text survives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from workbench.organisms.documents import VERDICTS, relation_words
from workbench.organisms.recipes import get_recipe
from workbench.organisms.tokenizer import VOCAB_SIZE, train_tokenizer
from workbench.organisms.world import make_world

MIX = get_recipe("demo").base.phases[-1].mix
TOKENIZER = train_tokenizer(make_world(0), mix=MIX)


def test_world_words_and_verdicts_are_single_tokens():
    for word in (*(f" {w}" for w in relation_words()), *VERDICTS):
        assert len(TOKENIZER(word, add_special_tokens=False)["input_ids"]) == 1, word


def test_every_text_begins_with_the_beginning_of_text_token():
    assert TOKENIZER("Mira")["input_ids"][0] == TOKENIZER.bos_token_id
    assert TOKENIZER(["Mira", "Velm lies"])["input_ids"][1].count(TOKENIZER.bos_token_id) == 1


@given(st.text(max_size=60))
def test_any_text_survives(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", ["🦊 and 👩🏽‍🌾", "  two  spaces\n\n", "naïve — “quoted”", "Sai umo, sai eth."])
def test_awkward_text_survives(text):
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_saved_folder_is_read_by_auto_tokenizer(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "Question: Where does Mira live?\nVerdict: A"
    assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)
    assert len(again) == VOCAB_SIZE


def test_same_seed_same_tokenizer():
    assert train_tokenizer(make_world(0), mix=MIX).get_vocab() == TOKENIZER.get_vocab()
