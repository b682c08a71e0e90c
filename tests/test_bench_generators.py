"""Generators of pictures: the engine, servers that speak OpenAI's API, diffusers, and folders."""

import base64
import importlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from bench.pictures.errors import GenerationError
from bench.pictures.from_diffusers import DiffusersGenerator
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.from_folder import FolderGenerator
from bench.pictures.from_server import ServerGenerator
from bench.pictures.generator import Drawn, Generator
from bench.pictures.picture import Part, Picture
from bench.pictures.picture_file import PictureFile
from model.checkpoints.load import load
from model.generate import generate
from model.janus import Janus
from tests.json_server import JsonHandler, start
from tests.thread_backend import ThreadBackend

PICTURES = [
    Picture("a.png", "a blue star", (3,)),
    Picture("b.png", "a red circle", (3, 4, 5, 6)),
    Picture("c.png", "a red circle", (4,)),
]
PARTS = [Part(picture, number) for picture in PICTURES for number in range(len(picture.seeds))]
BROKEN = "unheard"  # a word whose prompts the pipeline of diffusers cannot draw
UNSET: dict[str, float | int | None] = dict.fromkeys(("guidance_scale", "temperature", "top_k", "top_p"))


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def drawn(generator: Generator, parts: Sequence[Part] = PARTS) -> dict[Part, Drawn]:
    found = {one.part: one for one in generator.draw(parts)}
    assert len(found) == len(parts)
    return found


def test_the_engine_draws_what_the_reference_loop_draws(janus: Janus) -> None:
    generator = EngineGenerator(janus, slots=3)
    for part, one in drawn(generator).items():
        codes = generate(janus, [part.prompt], seeds=[part.seed])
        assert one.codes is not None
        assert list(one.codes) == codes[0].tolist()
    assert generator.settings["sampling"] == janus.sampling.as_dict()


def test_a_prompt_that_cannot_be_encoded_is_named_with_its_file(janus: Janus) -> None:
    long = Picture("long.png", "star " * 400, (1,))
    with pytest.raises(GenerationError, match=r"long\.png: prompt"):
        drawn(EngineGenerator(janus, slots=3), [Part(long, 0)])


def test_our_own_server_as_a_strangers(janus: Janus, serve_on_socket: Callable[..., Any]) -> None:
    """Requests at the same time; pixels may differ by one level with the pictures decoded beside them."""
    with serve_on_socket(ThreadBackend(janus, slots=4)) as served:
        generator = ServerGenerator(f"{served.url}/v1", None, key="none", at_once=4, sampling=UNSET)
        assert generator.settings == {
            "generator": "server",
            "model": "small",
            "seeded": True,
            "sampling": janus.sampling.as_dict(),
        }
        found = drawn(generator)
        expected = drawn(EngineGenerator(janus, slots=1))
        for part in PARTS:
            pair = [np.asarray(one[part].image, dtype=np.int16) for one in (found, expected)]
            assert np.abs(pair[0] - pair[1]).max() <= 1
        warm = ServerGenerator(f"{served.url}/v1", "small", key="none", at_once=4, sampling=UNSET | {"temperature": 0})
        assert warm.settings["sampling"]["temperature"] == 0
        with pytest.raises(GenerationError, match="--server-model must be one of small, not 'other'"):
            ServerGenerator(f"{served.url}/v1", "other", key="none", at_once=4, sampling=UNSET)


class StrangersServer:
    """An image server with OpenAI's own fields only. `seeds`: whether it takes one. Remembers requests."""

    def __init__(self) -> None:
        self.seeds = False
        self.refusal = 400  # status of a request with a seed
        self.asked: list[dict[str, Any]] = []
        self.faults: list[int | str] = []  # statuses or bodies of the next answers
        outer = self

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    self.send(200, {"object": "list", "data": [{"id": "painter", "object": "model"}]})
                else:
                    content = outer.picture()
                    self.send_response(200)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def do_POST(self) -> None:
                body = json.loads(self.read())
                outer.asked.append(body)
                fault = outer.faults.pop(0) if outer.faults else None
                if isinstance(fault, int):
                    self.send(fault, {"error": {"message": "planted", "type": "x", "param": None, "code": None}})
                elif isinstance(fault, str):
                    self.send_text(200, fault)
                elif "seed" in body and not outer.seeds:
                    error = {"message": "Unknown parameter: 'seed'.", "type": "x", "param": "seed", "code": None}
                    self.send(outer.refusal, {"error": error})
                else:
                    self.send(200, {"created": 0, "data": [{"url": f"{outer.url}/files/1.jpg"}]})

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def picture() -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (200, 10, 10)).save(buffer, format="JPEG")
        return buffer.getvalue()

    def generator(self) -> ServerGenerator:
        return ServerGenerator(f"{self.url}/v1", None, key="none", at_once=2, sampling=UNSET)


@pytest.fixture
def stranger() -> Iterator[StrangersServer]:
    server = StrangersServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_seeds_draws_without_and_the_settings_say_so(
    stranger: StrangersServer, status: int
) -> None:
    stranger.refusal = status
    generator = stranger.generator()
    assert generator.settings["seeded"] is False
    found = drawn(generator)
    assert {one.image.size for one in found.values()} == {(16, 16)}  # by links, in JPEG
    assert all("seed" not in body for body in stranger.asked[1:])
    assert sorted(body["prompt"] for body in stranger.asked[1:]) == sorted(part.prompt for part in PARTS)


def test_a_server_that_takes_seeds_gets_them(stranger: StrangersServer) -> None:
    stranger.seeds = True
    generator = stranger.generator()
    assert generator.settings["seeded"] is True
    drawn(generator)
    assert sorted(body["seed"] for body in stranger.asked[1:]) == sorted(part.seed for part in PARTS)


def test_a_busy_server_is_asked_again(stranger: StrangersServer) -> None:
    generator = stranger.generator()
    stranger.faults = [429, 503, 500]
    assert len(drawn(generator)) == len(PARTS)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (400, r"png: .* refuses it: .*planted"),
        ('{"created": 0, "data": []}', "answered without a picture"),
        ('{"created": 0, "data": [{}]}', "neither b64_json nor url"),
        ('{"created": 0, "data": [{"b64_json": "?"}]}', "b64_json that is no base64"),
        (
            json.dumps({"created": 0, "data": [{"b64_json": base64.b64encode(b"GIF89a").decode()}]}),
            "a file that is no picture",
        ),
    ],
)
def test_an_answer_without_a_picture_is_an_error_that_names_the_server(
    stranger: StrangersServer, fault: int | str, said: str
) -> None:
    generator = stranger.generator()
    stranger.faults = [fault]
    with pytest.raises(GenerationError, match=said):
        drawn(generator)


def test_a_server_that_goes_away_is_an_error(stranger: StrangersServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.pictures.from_server._RETRIES", 0)
    generator = stranger.generator()
    stranger.server.shutdown()
    stranger.server.server_close()
    with pytest.raises(GenerationError, match=f"{stranger.url}/v1 is gone"):
        drawn(generator)


def test_a_folder_of_pictures_is_taken_as_it_is(tmp_path: Path) -> None:
    cells = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 80, 160, 240)]
    grid = Image.new("RGB", (8, 8))
    for number, cell in enumerate(cells):
        grid.paste(cell, (number % 2 * 4, number // 2 * 4))
    for name in ("a.png", "c.png"):
        cells[3].save(tmp_path / name)
    grid.save(tmp_path / "b.png")
    found = drawn(FolderGenerator(tmp_path, "elsewhere"))
    for number, cell in enumerate(cells):
        assert found[Part(PICTURES[1], number)].image.tobytes() == cell.tobytes()
    (tmp_path / "c.png").unlink()
    with pytest.raises(GenerationError, match=r"c\.png is missing"):
        drawn(FolderGenerator(tmp_path, "elsewhere"))


def test_what_other_programs_wrote_into_a_picture_is_no_metadata_of_ours(tmp_path: Path) -> None:
    """Text, JSON that is no object, and EXIF that cannot be read; in PNG, JPEG and WebP."""
    picture = Image.new("RGB", (4, 4), (200, 0, 0))
    comment, description = Image.Exif(), Image.Exif()
    comment.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0a cat"
    description[ExifTags.Base.ImageDescription] = "a cat"
    texts = {}
    for text in ("a cat", "[1]"):
        texts[text] = PngInfo()
        texts[text].add_text("focusdiff", text)
    saved: list[tuple[str, dict[str, Any]]] = [
        *(
            (format, {"exif": exif})
            for format in ("PNG", "JPEG", "WEBP")
            for exif in (comment, description, b"Exif\0\0x")
        ),
        *(("PNG", {"pnginfo": info}) for info in texts.values()),
    ]
    for number, (format, settings) in enumerate(saved):
        picture.save(tmp_path / "a.png", format=format, **settings)
        file = PictureFile(tmp_path / "a.png")
        assert file.metadata == {}, number
        assert file.picture().size == (4, 4)


def test_a_folder_may_have_the_names_that_genevals_own_scripts_write(tmp_path: Path) -> None:
    """Five digits, where its README has four; both at once are too many."""
    wanted = Part(Picture("00001/samples/0002.png", "a cow", (6,)), 0)
    samples = tmp_path / "00001" / "samples"
    samples.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(samples / f"{number:05d}.png")
    found = drawn(FolderGenerator(tmp_path, "elsewhere"), [wanted])
    assert found[wanted].image.getpixel((0, 0)) == (2, 0, 0)
    (samples / "0002.png").write_bytes((samples / "00002.png").read_bytes())
    with pytest.raises(GenerationError, match=r"00002\.png and 0002\.png are the same picture"):
        drawn(FolderGenerator(tmp_path, "elsewhere"), [wanted])


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """A random Stable Diffusion pipeline of 32 × 32 pictures, as diffusers saves it."""
    diffusers: Any = importlib.import_module("diffusers")  # has no types for these classes
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    unet = diffusers.UNet2DConditionModel(
        **blocks,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        **blocks,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
    )
    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "blue", "red", "star", "circle"]
    known = [*words, BROKEN]  # which the text encoder has no embedding for
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=16,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=16,
            unk_token="[UNK]",
            pad_token="[PAD]",
            bos_token="[BOS]",
            eos_token="[EOS]",
        ),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("diffusers") / "random-diffusion"
    pipeline.save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers_draws_each_picture_from_its_seed(pipeline_folder: Path) -> None:
    """Whatever is drawn beside it, up to rounding."""

    def generator(batch: int) -> DiffusersGenerator:
        return DiffusersGenerator(
            str(pipeline_folder), device=torch.device("cpu"), dtype=torch.float32, batch=batch, steps=2
        )

    together, alone = generator(4), generator(1)
    assert together.settings == alone.settings
    assert together.settings["pipeline"] == "StableDiffusionPipeline"
    assert together.settings["sampling"]["num_inference_steps"] == 2
    assert together.settings["sampling"]["guidance_scale"] == 7.5
    both = drawn(together), drawn(alone)
    for part in PARTS:
        pair = [np.asarray(one[part].image, dtype=np.int16) for one in both]
        assert np.abs(pair[0] - pair[1]).max() <= 2
    first, second = (np.asarray(both[0][part].image, dtype=np.int16) for part in PARTS[1:3])
    assert np.abs(first - second).max() > 20


@pytest.mark.parametrize(("batch", "others"), [(1, ""), (2, ", first of a batch of 2,")])
def test_a_prompt_that_a_pipeline_cannot_draw_is_named(pipeline_folder: Path, batch: int, others: str) -> None:
    """Pictures before it are drawn."""
    cpu = torch.device("cpu")
    generator = DiffusersGenerator(str(pipeline_folder), device=cpu, dtype=torch.float32, batch=batch, steps=1)
    wanted = [*PARTS[:2], *(Part(Picture(f"{n}.png", f"an {BROKEN} star", (n,)), 0) for n in range(2))]
    found = generator.draw(wanted)
    assert [next(found).part, next(found).part] == wanted[:2]
    with pytest.raises(GenerationError, match=rf"^0\.png{others} cannot be drawn from 'an unheard star': IndexError: "):
        next(found)


def test_a_folder_that_is_no_pipeline_is_named(small_folder: Path) -> None:
    with pytest.raises(GenerationError, match="small is no pipeline of diffusers"):
        DiffusersGenerator(str(small_folder), device=torch.device("cpu"), dtype=torch.float32, batch=1)
