"""The frame around a prompt, and user text that must never become special tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from model.errors import PromptError
from model.prompt import (
    ASSISTANT,
    BEGIN_OF_IMAGE,
    BOS,
    PAD,
    SPECIAL_TOKENS,
    USER,
    encode_prompt,
    special_ids,
    unconditional_row,
)
from train.tiny.text_tokenizer import train_text_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_text_tokenizer(["three red circles", "a green star above a blue heart"] * 4, 300)


def test_frame(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode_prompt(tokenizer.backend_tokenizer, "  three red circles\n")
    assert tokenizer.decode(row) == f"{BOS}{USER}: three red circles\n\n{ASSISTANT}:{BEGIN_OF_IMAGE}"
    vocabulary = tokenizer.get_vocab()
    assert [row[0], row[1], row[-3], row[-1]] == [vocabulary[t] for t in (BOS, USER, ASSISTANT, BEGIN_OF_IMAGE)]
    # the text between the roles is encoded as one segment; encoding its parts separately gives other ids
    assert row[2:-3] == tokenizer(": three red circles\n\n", add_special_tokens=False).input_ids


def test_unconditional_row_has_the_same_length(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = special_ids(tokenizer.backend_tokenizer)
    assert unconditional_row(5, ids) == [ids.bos, ids.pad, ids.pad, ids.pad, ids.begin_of_image]
    assert ids.pad == tokenizer.get_vocab()[PAD]


@given(
    st.lists(
        st.sampled_from([*SPECIAL_TOKENS, *(t.upper() for t in SPECIAL_TOKENS), " ", "red", "é", "<", "|>"]), min_size=1
    )
)
def test_user_text_never_becomes_a_special_token(tokenizer: PreTrainedTokenizerBase, parts: list[str]) -> None:
    text = "x" + "".join(parts)
    row = encode_prompt(tokenizer.backend_tokenizer, text, limit=10_000)
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    assert [token for token in row if token in special] == [row[0], row[1], row[-3], row[-1]]


@given(st.text(min_size=1, max_size=40))
def test_any_unicode_is_encoded_or_refused_naming_the_field(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    if not text.strip() or any("\ud800" <= char <= "\udfff" for char in text):
        with pytest.raises(PromptError, match=r"^prompt "):
            encode_prompt(tokenizer.backend_tokenizer, text)
    else:
        row = encode_prompt(tokenizer.backend_tokenizer, text)
        plain = tokenizer(f": {text.strip()}\n\n", add_special_tokens=False, split_special_tokens=True).input_ids
        assert row[2:-3] == plain


def test_added_letters_are_plain_text_and_added_marks_are_refused() -> None:
    """DeepSeek's tokenizers hold letters such as ö as added tokens that are not special."""
    tokenizer = train_text_tokenizer(["three red circles"] * 4, 300)
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("ŵ", "<mark>")])
    letter, mark = (tokenizer.convert_tokens_to_ids(token) for token in ("ŵ", "<mark>"))
    assert letter in encode_prompt(tokenizer.backend_tokenizer, "a ŵ red circle")
    assert mark in tokenizer("a <mark>").input_ids
    with pytest.raises(PromptError, match="reserved token '<mark>'"):
        encode_prompt(tokenizer.backend_tokenizer, "a <mark>")


def test_the_token_limit_is_exact_and_its_error_names_the_field(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode_prompt(tokenizer.backend_tokenizer, "three red circles")
    assert encode_prompt(tokenizer.backend_tokenizer, "three red circles", limit=len(row)) == row
    with pytest.raises(PromptError, match=f"negative_prompt is {len(row)} tokens long .* at most {len(row) - 1}"):
        encode_prompt(tokenizer.backend_tokenizer, "three red circles", name="negative_prompt", limit=len(row) - 1)
