"""Text tokenizer of the tiny models: byte-level BPE on captions, with Janus's special tokens."""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.prompt import BOS, EOS, PAD, SPECIAL_TOKENS

# Matches each of the first three characters of a quoted word, one at a time.
_QUOTED_CHARACTER = r'(?<="|"\w|"\w\w)\w(?=\w*")'


def train_text_tokenizer(captions: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer with about one token per word of a caption; case is folded.

    A sign's text has one token per character, so that a decoder learns letters, not words (docs/tiny.md).

    Args:
        captions: texts to learn merges from.
        vocabulary: number of ids, including special tokens and the 256 bytes; at least 264.
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
    # captions as they stand in a prompt, so that ": three" and "stars\n\n" are learnt as they will be encoded
    tokenizer.train_from_iterator((f": {caption}\n\n" for caption in captions), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)
