"""Contact sheets: what is written above pictures."""

import numpy as np
from PIL import Image

from pairs.contact_sheet import contact_sheet

LONG = "at night, one solid orange heart below one solid purple triangle"


def sheet(*captions: str) -> np.ndarray:
    pictures = [Image.new("RGB", (60, 60), "navy")] * len(captions)
    return np.asarray(contact_sheet([pictures], side=60, captions=[captions]).convert("L"))


def test_a_long_caption_ends_before_the_next_one() -> None:
    """It goes on above a picture without a caption, and changes no pixel above one that has a caption."""
    after = sheet(LONG, "", "next", "")
    assert np.array_equal(after[:26, 2 * 64 :], sheet("", "", "next", "")[:26, 2 * 64 :])
    assert (after[:26, 64 : 2 * 64 - 4] < 128).any()
    assert not np.array_equal(after[:26, : 2 * 64], sheet("at night", "", "next", "")[:26, : 2 * 64])


def test_a_caption_that_fits_is_whole() -> None:
    """More room to the right changes none of its pixels."""
    whole = sheet(LONG, *[""] * 9)
    assert (whole[:26, 5 * 64 :] < 128).any()
    assert np.array_equal(sheet(LONG, *[""] * 19)[:26, : 640 - 4], whole[:26])
