"""Prompts as token ids: Janus's template, and the unconditional row."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from model.errors import CheckpointError, PromptError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
BEGIN_OF_IMAGE = "<begin_of_image>"
END_OF_IMAGE = "<end_of_image>"
IMAGE_PLACEHOLDER = "<image_placeholder>"
USER = "<|User|>"
ASSISTANT = "<|Assistant|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_PLACEHOLDER, USER, ASSISTANT)

MAX_PROMPT_TOKENS = 256


@dataclass(frozen=True)
class SpecialIds:
    """The ids that frame a prompt."""

    bos: int
    pad: int
    begin_of_image: int


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of a token by its name; None where the tokenizer does not have it."""
    found = tokenizer.convert_tokens_to_ids(token)
    # an unknown name gives the id of the unknown token, where there is one
    return found if isinstance(found, int) and tokenizer.convert_ids_to_tokens(found) == token else None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """The framing ids of a tokenizer, found by name: public code disagrees on the numbers.

    Raises:
        CheckpointError: the tokenizer lacks one of them.
    """
    bos, pad, begin_of_image = (token_id(tokenizer, token) for token in (BOS, PAD, BEGIN_OF_IMAGE))
    if bos is None or pad is None or begin_of_image is None:
        found = zip((BOS, PAD, BEGIN_OF_IMAGE), (bos, pad, begin_of_image), strict=True)
        missing = ", ".join(token for token, number in found if number is None)
        raise CheckpointError(f"the tokenizer is not a Janus one: it has no {missing}")
    return SpecialIds(bos, pad, begin_of_image)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, *, name: str = "prompt", limit: int = MAX_PROMPT_TOKENS
) -> list[int]:
    """Token ids of BOS, `<|User|>: {prompt}\\n\\n<|Assistant|>:` and `<begin_of_image>`.

    The user's text never becomes a special token, whatever it spells.

    Args:
        tokenizer: of a Janus checkpoint.
        prompt: stripped before use.
        name: of the field, for messages.
        limit: the most tokens allowed, the frame included.

    Raises:
        PromptError: the prompt is empty, too long, or cannot be kept from spelling a special token.
    """
    text = prompt.strip()
    if not text:
        raise PromptError(f"{name} is empty")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise PromptError(f"{name} is not valid Unicode: it contains a lone surrogate")
    ids = special_ids(tokenizer)
    user, assistant = token_id(tokenizer, USER), token_id(tokenizer, ASSISTANT)
    if user is not None and assistant is not None:
        body = [
            user,
            *_encode_plain(tokenizer, f": {text}\n\n", name),
            assistant,
            *_encode_plain(tokenizer, ":", name),
        ]
    else:  # Janus-1.3B names the roles in plain words
        body = _encode_plain(tokenizer, f"User: {text}\n\nAssistant:", name)
    row = [ids.bos, *body, ids.begin_of_image]
    if len(row) > limit:
        raise PromptError(f"{name} is {len(row)} tokens long with its frame; at most {limit} are allowed")
    return row


def _encode_plain(tokenizer: PreTrainedTokenizerBase, text: str, name: str) -> list[int]:
    """Ids of a text taken literally, without special tokens around it or in it."""
    row: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    present = set(row)
    for number, token in tokenizer.added_tokens_decoder.items():
        # plain letters such as ö are added tokens of DeepSeek's tokenizers too, and harmless
        reserved = token.special or (token.content.startswith("<") and token.content.endswith(">"))
        if reserved and number in present:
            raise PromptError(f"{name} contains the reserved token {token.content!r}")
    return row


def unconditional_row(length: int, ids: SpecialIds) -> list[int]:
    """The row without a prompt: as long as the conditional one, pads (attended) in place of the text."""
    return [ids.bos, *[ids.pad] * (length - 2), ids.begin_of_image]
