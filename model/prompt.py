"""Prompts as token ids: Janus's template, and the unconditional row. Imports no torch and no transformers."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

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
    """Token ids of the frame around a prompt."""

    bos: int
    pad: int
    begin_of_image: int


def token_id(tokenizer: Tokenizer, token: str) -> int | None:
    """Id of a token, or None if the tokenizer does not have it."""
    found: int | None = tokenizer.token_to_id(token)
    return found


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Frame ids of a tokenizer, looked up by name because public code disagrees on the numbers.

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
    tokenizer: Tokenizer, prompt: str, *, name: str = "prompt", limit: int = MAX_PROMPT_TOKENS
) -> list[int]:
    """Token ids of BOS, `<|User|>: {prompt}\\n\\n<|Assistant|>:` and `<begin_of_image>`.

    The prompt never yields special tokens, even if it contains their names.

    Args:
        tokenizer: of a Janus checkpoint.
        prompt: stripped before use.
        name: of the field, for messages.
        limit: most tokens allowed, frame included.

    Raises:
        PromptError: the prompt is empty, too long or not valid Unicode, or contains a reserved token that the
            tokenizer does not split.
    """
    text = prompt.strip()
    if not text:
        raise PromptError(f"{name} is empty")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise PromptError(f"{name} is not valid Unicode: it contains a lone surrogate")
    frame = _frame_of(tokenizer)
    if frame.user is not None and frame.assistant is not None:
        body = [frame.user, *_encode_plain(tokenizer, f": {text}\n\n", name), frame.assistant, *frame.colon]
    else:  # Janus-1.3B has no role tokens and names the roles as plain text
        body = _encode_plain(tokenizer, f"User: {text}\n\nAssistant:", name)
    row = [frame.ids.bos, *body, frame.ids.begin_of_image]
    if len(row) > limit:
        raise PromptError(f"{name} is {len(row)} tokens long with its frame; at most {limit} are allowed")
    return row


@dataclass(frozen=True)
class _Frame:
    """Token ids around every prompt of a tokenizer, and the tokens that prompts may not contain, by id."""

    ids: SpecialIds
    user: int | None
    assistant: int | None
    colon: list[int]
    reserved: dict[int, str]


_FRAMES: WeakKeyDictionary[Tokenizer, _Frame] = WeakKeyDictionary()


def _frame_of(tokenizer: Tokenizer) -> _Frame:
    """Frame of a tokenizer, cached because building it takes longer than encoding a prompt."""
    known = _FRAMES.get(tokenizer)
    if known is not None:
        return known
    # DeepSeek's tokenizers also have plain letters such as ö as added tokens, which are harmless
    reserved = {
        number: token.content
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special or (token.content.startswith("<") and token.content.endswith(">"))
    }
    colon = _ids(tokenizer, ":")
    frame = _FRAMES[tokenizer] = _Frame(
        special_ids(tokenizer), token_id(tokenizer, USER), token_id(tokenizer, ASSISTANT), colon, reserved
    )
    return frame


def _encode_plain(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    """Token ids of a literal text, none of which is reserved."""
    row = _ids(tokenizer, text)
    reserved = _frame_of(tokenizer).reserved
    for number in row:
        if number in reserved:
            raise PromptError(f"{name} contains the reserved token {reserved[number]!r}")
    return row


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text, whole and without padding; special tokens are neither added nor recognised."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # transformers sets all three for itself, too, at every call
    row: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return row


def unconditional_row(length: int, ids: SpecialIds) -> list[int]:
    """Token ids of the unconditional row: `length` long, with pads (which are attended to) in place of the text."""
    return [ids.bos, *[ids.pad] * (length - 2), ids.begin_of_image]
