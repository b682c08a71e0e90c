"""A contact sheet of prompt pairs: what a checkpoint makes of two prompts that differ in a word."""

from PIL import Image, ImageDraw, ImageFont

from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus

PAIRS = (
    ("three red circles", "four red circles"),
    ("a blue square and an orange heart", "a green square and an orange heart"),
    ("a yellow star to the left of a purple circle", "a yellow star to the right of a purple circle"),
    ("a striped green heart", "an outlined green heart"),
    ("two purple triangles by day", "two purple triangles at night"),
    ('a red sign that says "SUN"', 'a red sign that says "RUN"'),
)
_SIDE, _GAP, _LINE = 128, 6, 26


def pair_sheet(janus: Janus, *, seeds: tuple[int, int] = (1, 2)) -> Image.Image:
    """Two pictures of each prompt of each pair, equal seeds left and right, with the prompts above."""
    prompts = [prompt for pair in PAIRS for prompt in pair for _ in seeds]
    codes = generate(janus, prompts, seeds=list(seeds) * (len(prompts) // len(seeds)))
    pictures = [Image.fromarray(picture) for picture in ImageTokenizer(janus).images(codes).numpy()]
    half = len(seeds) * (_SIDE + _GAP)
    width, height = 2 * half + 18, _LINE + _SIDE + _GAP
    sheet = Image.new("RGB", (2 * width + 24, 3 * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, picture in enumerate(pictures):
        pair, place = divmod(i, 2 * len(seeds))
        side, number = divmod(place, len(seeds))
        x = pair % 2 * (width + 24) + side * (half + 18) + number * (_SIDE + _GAP)
        y = pair // 2 * height
        if number == 0:
            pen.text((x + 1, y + 6), PAIRS[pair][side], fill="black", font=font)
        sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, y + _LINE))
    return sheet
