"""Sizes other than the model's own: the same square, resized and padded or cropped, and what the answer says of it."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pairs.picture_file import read_metadata
from serve.backends.protocol import Backend
from serve.http.errors import InvalidRequest
from serve.http.sizes import Fit, Size, parse_size, resize

MakeApp = Callable[..., Any]


@pytest.fixture
def serve(either_backend: Backend, make_app: MakeApp) -> Callable[..., TestClient]:
    return lambda **settings: TestClient(make_app(either_backend, **settings)[0])


def draw(client: TestClient, size: str | None) -> tuple[dict[str, Any], Image.Image]:
    answer = client.post("/v1/images/generations", json={"prompt": "a blue star", "seed": 5, "size": size}).json()
    return answer, Image.open(file_of(answer))


def file_of(answer: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))


@pytest.mark.parametrize("own", ["auto", None, "", "64x64"])
def test_the_models_own_size_is_not_resized(serve: Callable[..., TestClient], own: str | None) -> None:
    answer, picture = draw(serve(), own)
    assert (answer["size"], answer["resizing"], picture.size) == ("64x64", None, (64, 64))
    assert "resized" not in (read_metadata(file_of(answer)) or {})


@pytest.mark.parametrize("side", [100, 512, 1024, 2048])
def test_a_larger_square_is_the_drawn_one_enlarged(serve: Callable[..., TestClient], side: int) -> None:
    client = serve()
    _, small = draw(client, None)
    answer, large = draw(client, f"{side}x{side}")
    assert large.tobytes() == small.resize((side, side), Image.Resampling.LANCZOS).tobytes()
    assert answer["size"] == f"{side}x{side}"
    resizing = {"drawn": "64x64", "filter": "lanczos"}
    assert answer["resizing"] == resizing | {"fit": None}
    settings = read_metadata(file_of(answer))
    assert settings is not None
    assert (settings["size"], settings["resized"]) == (f"{side}x{side}", resizing)


@pytest.mark.parametrize(("size", "corner"), [("192x128", (32, 0)), ("128x192", (0, 32))])
def test_padding_keeps_the_whole_picture(serve: Callable[..., TestClient], size: str, corner: tuple[int, int]) -> None:
    client = serve()
    _, small = draw(client, None)
    answer, padded = draw(client, size)
    assert f"{padded.width}x{padded.height}" == size
    assert answer["resizing"]["fit"] == "pad"
    inside = padded.crop((*corner, corner[0] + 128, corner[1] + 128))
    assert inside.tobytes() == small.resize((128, 128), Image.Resampling.LANCZOS).tobytes()
    pixels = np.asarray(small.convert("RGB"), dtype=float)
    frame = np.ones((64, 64), dtype=bool)
    frame[1:-1, 1:-1] = False
    outside = padded.getpixel((0, 0))
    assert outside == padded.getpixel((padded.width - 1, padded.height - 1))
    assert np.allclose(np.asarray(outside), pixels[frame].mean(axis=0), atol=0.5 + 1e-9)


def test_cropping_fills_the_size_from_the_middle(serve: Callable[..., TestClient]) -> None:
    client = serve(fit="crop")
    _, small = draw(client, None)
    answer, cropped = draw(client, "192x128")
    expected = small.resize((192, 192), Image.Resampling.LANCZOS).crop((0, 32, 192, 160))
    assert cropped.tobytes() == expected.tobytes()
    assert answer["resizing"]["fit"] == "crop"


def test_a_server_may_refuse_other_shapes(serve: Callable[..., TestClient]) -> None:
    client = serve(fit="refuse")
    answer = client.post("/v1/images/generations", json={"prompt": "a star", "size": "192x128"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")
    assert draw(client, "128x128")[1].size == (128, 128)


def test_streamed_pictures_have_the_size_too(serve: Callable[..., TestClient]) -> None:
    body = {"prompt": "a star", "stream": True, "partial_images": 1, "size": "192x128"}
    text = serve().post("/v1/images/generations", json=body).text
    assert text.count('"size":"192x128"') == 2
    assert '"resizing":{"drawn":"64x64","filter":"lanczos","fit":"pad"}' in text


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("odd", [Size(2048, 65), Size(65, 66), Size(67, 64), Size(64, 2048)])
def test_every_size_comes_out_exactly(fit: Fit, odd: Size) -> None:
    image = Image.new("RGB", (16, 16), (10, 200, 30))
    resized = resize(image, odd, fit)
    assert resized.size == (odd.width, odd.height)
    assert resized.getcolors() == [(odd.width * odd.height, (10, 200, 30))]


def test_a_model_may_draw_smaller_pictures_than_clients_may_ask_for() -> None:
    assert parse_size("16x16", own=16, fit="pad", strict=True) == Size(16, 16)
    with pytest.raises(InvalidRequest, match="64 to 2048 pixels"):
        parse_size("17x17", own=16, fit="pad", strict=False)
