"""Checkpoints: every layout loads the same weights; a damaged one gives an error that names the fault."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.cuda._utils import _get_device_index
from transformers import ByT5Tokenizer

from model.checkpoints.convert import main
from model.checkpoints.deepseek import convert_config
from model.checkpoints.load import load
from model.checkpoints.save import save
from model.device import choose_device
from model.errors import CheckpointError
from model.janus import Janus
from model.params import SamplingParams
from pairs.world import World
from tests.ended import Ended
from tests.forked_command import ForkedCommand
from train.data.scenes import SceneSource
from train.tiny.text_tokenizer import train_text_tokenizer


def weights(janus: Janus) -> dict[str, Tensor]:
    return dict(janus.network.state_dict())


def assert_same(first: Janus, second: Janus) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture
def folder(tmp_path: Path, deepseek_folder: Path) -> Path:
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    shutil.copy(deepseek_folder / "config.json", copy)
    return copy


def halves(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = sorted(tensors)
    middle = len(names) // 2
    return {n: tensors[n] for n in names[:middle]}, {n: tensors[n] for n in names[middle:]}


def test_sharded_bin_with_index(folder: Path, deepseek: Janus, deepseek_tensors: Mapping[str, Tensor]) -> None:
    first, second = halves(deepseek_tensors)
    torch.save(first, folder / "pytorch_model-00001-of-00002.bin")
    torch.save(second, folder / "pytorch_model-00002-of-00002.bin")
    index = dict.fromkeys(first, "pytorch_model-00001-of-00002.bin") | dict.fromkeys(
        second, "pytorch_model-00002-of-00002.bin"
    )
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(load(folder, device="cpu"), deepseek)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00002\.bin is missing"):
        load(folder, device="cpu")


@pytest.mark.parametrize("indexed", [True, False])
def test_safetensors_with_and_without_index(
    folder: Path, deepseek: Janus, deepseek_tensors: Mapping[str, Tensor], indexed: bool
) -> None:
    first, second = halves(deepseek_tensors)
    save_file(first, folder / "a.safetensors")
    save_file(second, folder / "b.safetensors")
    if indexed:
        index = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(load(folder, device="cpu"), deepseek)


def test_an_overlay_replaces_only_the_tensors_it_holds(
    tmp_path: Path, deepseek_folder: Path, deepseek: Janus, deepseek_tensors: Mapping[str, Tensor]
) -> None:
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    torch.save({name: deepseek_tensors[name] * 2}, tmp_path / "focus.pt")
    laid = weights(load(deepseek_folder, device="cpu", overlay=tmp_path / "focus.pt"))
    changed = {n for n, tensor in weights(deepseek).items() if not torch.equal(tensor, laid[n])}
    assert changed == {"model.language_model.layers.0.self_attn.q_proj.weight"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"module.gen_embed.weight": torch.zeros(2)}, r"focus\.pt: tensor module\.gen_embed\.weight is not part"),
        (
            {"gen_embed.weight": torch.zeros(2, 2)},
            r"focus\.pt: tensor .*generation_embeddings\.weight has shape \[2, 2\]",
        ),
        ({"vision_model.vision_tower.blocks.0.attn.qkv.bias": torch.zeros(4)}, r"focus\.pt: .*qkv\.bias .*three parts"),
        ([torch.zeros(2)], r"focus\.pt: is not a state dict"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, deepseek_folder: Path, content: object, said: str
) -> None:
    torch.save(content, tmp_path / "focus.pt")
    with pytest.raises(CheckpointError, match=said):
        load(deepseek_folder, device="cpu", overlay=tmp_path / "focus.pt")


def test_a_bin_file_in_torchs_old_format_is_read(
    folder: Path, deepseek: Janus, deepseek_tensors: Mapping[str, Tensor]
) -> None:
    torch.save(dict(deepseek_tensors), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(load(folder, device="cpu"), deepseek)


def test_a_tokenizer_of_another_library_is_refused(tmp_path: Path, deepseek_folder: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the tokenizer \(ByT5Tokenizer\) is not a Janus one: it is not fast"):
        load(deepseek_folder, device="cpu", tokenizer=tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, deepseek_folder: Path) -> None:
    source = SceneSource(World(), 0, 64)
    train_text_tokenizer((source.caption(i, 0) for i in range(500)), 400).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ tokens, the model only 300"):
        load(deepseek_folder, device="cpu", tokenizer=tmp_path)


def test_a_model_loaded_from_the_current_folder_is_named_after_it(
    deepseek_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(deepseek_folder)
    assert load(".", device="cpu").name == deepseek_folder.name


def test_conversion_round_trip(converted_folder: Path, deepseek: Janus) -> None:
    assert_same(load(converted_folder, device="cpu"), deepseek)


def test_sampling_settings_and_special_ids_are_saved_and_loaded(tmp_path: Path, deepseek: Janus) -> None:
    sampling = SamplingParams(guidance_scale=2.5, temperature=0.8, top_k=100, top_p=0.9)
    judge = {"judge": "endpoint", "judge model": "vlm", "judge weights": None}
    save(Janus("x", deepseek.network, None, deepseek.ids, sampling, judge), tmp_path / "x")
    again = load(tmp_path / "x", device="cpu")
    assert again.sampling == sampling
    assert again.reward_judge == judge
    assert deepseek.reward_judge is None
    assert again.ids == deepseek.ids


def test_the_published_7b_config_is_completed_with_defaults() -> None:
    config = {
        "model_type": "multi_modality",
        "vision_config": {"params": {"image_size": 384, "model_name": "siglip_large_patch16_384"}},
        "aligner_config": {"params": {"depth": 2, "input_dim": 1024, "n_embed": 4096}},
        "gen_vision_config": {"params": {"image_token_size": 16384, "n_embed": 8}},
        "gen_aligner_config": {"params": {"depth": 2, "input_dim": 8, "n_embed": 4096}},
        "gen_head_config": {"params": {"image_token_embed": 4096, "image_token_size": 16384, "n_embed": 4096}},
        "language_config": {"max_position_embeddings": 16384, "num_hidden_layers": 30, "vocab_size": 102400},
    }
    found = convert_config(config, file="config.json")
    text, vision, vq = found.text_config, found.vision_config, found.vq_config
    assert (text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.num_attention_heads) == (
        30,
        4096,
        11008,
        32,
    )
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_image_tokens, vision.projection_dim) == (
        1024,
        24,
        576,
        4096,
    )
    assert (vq.base_channels, list(vq.channel_multiplier), vq.latent_channels, vq.num_patches) == (
        128,
        [1, 1, 2, 2, 4],
        256,
        24,
    )


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_and_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[object, Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(folder, device="cpu")
    assert not (tmp_path / "pwned").exists()


def test_errors_of_damaged_weights_name_the_tensor_or_file(
    folder: Path, deepseek_tensors: Mapping[str, Tensor]
) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        load(folder, device="cpu")
    path = folder / "model.safetensors"
    name = "gen_embed.weight"
    save_file({n: t for n, t in deepseek_tensors.items() if n != name}, path)
    with pytest.raises(CheckpointError, match=r"generation_embeddings\.weight is missing"):
        load(folder, device="cpu")
    save_file(dict(deepseek_tensors) | {name: torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"generation_embeddings\.weight has shape \[3, 3\], not \[512, 8\]"):
        load(folder, device="cpu")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load(folder, device="cpu")


def test_a_folder_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="not a Janus"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "janus", "text_config": {"hidden_size": "wide"}}')
    with pytest.raises(CheckpointError, match=r"config\.json: .*hidden_size"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="no model 'no-such-model'"):
        load("no-such-model")


def test_saving_never_leaves_half_a_checkpoint(tmp_path: Path, deepseek_folder: Path, deepseek: Janus) -> None:
    """A file size limit simulates a full disk: the write fails in the middle of the weights."""
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    full = ForkedCommand(main, folder / "out", "--model", deepseek_folder, log=log, file_bytes=20_000)
    assert full.wait() == 2, full.printed
    assert len(full.printed.splitlines()) == 1, full.printed
    assert f"{folder / 'out'} cannot be written" in full.printed
    assert list(folder.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        save(deepseek, tmp_path / "out")


def test_greedy_sampling_settings_can_be_saved(tmp_path: Path, deepseek: Janus) -> None:
    sampling = SamplingParams(temperature=0, top_k=7, top_p=0.5)
    save(Janus("x", deepseek.network, None, deepseek.ids, sampling), tmp_path / "x")
    assert load(tmp_path / "x", device="cpu").sampling == sampling


@pytest.mark.parametrize("device", ["cuda:77", "cpu:1", "meta", "hpu", "xla", "abacus", ""])
def test_an_unavailable_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(CheckpointError, match=f"no device '{device}' here"):
        choose_device(device)


@pytest.mark.parametrize(("device", "current"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1), ("auto", 1)])
def test_a_gpu_that_is_chosen_by_number_becomes_the_current_one(
    device: str, current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a number it is the one that is current already, as torchrun has set it."""
    chosen = [1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # as PyTorch's own, which wants a number
    monkeypatch.setattr(torch.cuda, "set_device", lambda one: chosen.append(_get_device_index(one)))
    assert choose_device(device).type == "cuda"
    assert chosen[-1] == current


def test_convert_command(tmp_path: Path, deepseek_folder: Path, deepseek: Janus, command: Callable[..., Ended]) -> None:
    assert command(main, tmp_path / "out", "--model", deepseek_folder).code == 0
    assert_same(load(tmp_path / "out", device="cpu"), deepseek)
    bad = command(main, tmp_path / "out", "--model", tmp_path)
    assert bad.code == 2
    assert bad.err.count("\n") == 1
    assert "Traceback" not in bad.err
