"""The text tokenizer of the tiny models: byte-level BPE over captions, with Janus's special tokens."""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.prompt import BOS, EOS, PAD, SPECIAL_TOKENS

# Each of up to three characters between quotation marks.
_QUOTED_CHARACTER = r'(?<="|"\w|"\w\w)\w(?=\w*")'


def train_text_tokenizer(captions: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer that writes captions in about a token a word; case is folded.

    What a sign says is a token a character: a decoder then learns letters, not words (docs/tiny.md).

    Args:
        captions: what to learn merges from.
        vocabulary: number of ids, special tokens and the 256 bytes included; at least 264.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QUOTED_CHARACTER), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # as they stand in a prompt, so that ": three" and "stars\n\n" are seen the way they will be encoded
    tokenizer.train_from_iterator((f": {caption}\n\n" for caption in captions), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)
