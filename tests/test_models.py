"""Networks: their weights follow from settings and seed; saved folders are whole or named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from small_network import network_settings

from attribution.errors import ConfigurationError, StoreError
from attribution.models import build, check, is_saved, load, save
from attribution.provenance import Stopwatch, read_manifest

torch.set_num_threads(1)
MODEL = network_settings(8)
SPEC = {"code": "1", "settings": {"seed": 3}}
CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def saved(folder: Path, seed: int = 3) -> UNet2DModel:
    model = build(MODEL, 0.1, seed)
    save(model, folder, SPEC, Stopwatch(), "snakemake x", device="cpu", losses=[1.0])
    return model


def test_weights_follow_from_the_seed_and_not_from_the_global_generator():
    torch.manual_seed(0)
    first = build(MODEL, 0.1, 3)
    torch.manual_seed(1)
    assert same(build(MODEL, 0.0, 3), first)
    assert not same(build(MODEL, 0.1, 4), first)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build(MODEL, 0.1, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_dropout_layer_gets_the_probability():
    model = build(MODEL, 0.3, 0)
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    resnets = [module for module in model.modules() if type(module).__name__ == "ResnetBlock2D"]
    assert {layer.p for layer in layers} == {0.3}
    # One a block: 2 down, 2 in the middle, 2 x 2 up.
    assert len(layers) == len(resnets) == 8


def test_dropout_acts_in_training_mode_only():
    model = build(MODEL, 0.5, 0)
    images, step = torch.ones(1, 1, 8, 8), torch.tensor([5])
    with torch.no_grad():
        assert not torch.equal(model.train()(images, step).sample, model(images, step).sample)
        assert torch.equal(model.eval()(images, step).sample, model(images, step).sample)


def test_settings_that_diffusers_refuses_are_a_configuration_error():
    with pytest.raises(ConfigurationError, match="model: diffusers cannot build this UNet"):
        build({**MODEL, "up_block_types": ["UpBlock2D"]}, 0.1, 0)
    with pytest.raises(ConfigurationError, match="no_such_key"):
        build({**MODEL, "no_such_key": 1}, 0.1, 0)


def test_a_saved_model_is_loaded_bit_for_bit_in_evaluation_mode(tmp_path: Path):
    model = saved(tmp_path / "model")
    loaded = load(tmp_path / "model", CPU)
    assert same(loaded, model)
    assert not any(module.training for module in loaded.modules())
    images, step = torch.randn(2, 1, 8, 8), torch.tensor([5, 900])
    with torch.no_grad():
        assert torch.equal(loaded(images, step).sample, model.eval()(images, step).sample)


def test_the_folder_is_one_of_diffusers_and_holds_no_pickle(tmp_path: Path):
    model = saved(tmp_path / "model")
    assert same(UNet2DModel.from_pretrained(tmp_path / "model"), model)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == sorted(
        ["config.json", WEIGHTS, "manifest.json"]
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_manifest_says_what_made_the_model(tmp_path: Path):
    model = saved(tmp_path / "model")
    record = check(tmp_path / "model")
    assert record["parameters"] == sum(values.numel() for values in model.state_dict().values())
    assert (record["kind"], record["spec"], record["losses"]) == ("model", SPEC, [1.0])
    assert set(record["files"]) == {"config.json", WEIGHTS}


def test_equal_models_have_equal_digests_and_others_do_not(tmp_path: Path):
    digests = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        saved(tmp_path / name, seed)
        digests.append(read_manifest(tmp_path / name)["sha256"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_missing_or_damaged_file_is_named_with_the_repair(tmp_path: Path, name: str, fault: str):
    saved(tmp_path / "model")
    file = tmp_path / "model" / name
    if fault == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    assert not is_saved(tmp_path / "model", SPEC)
    with pytest.raises(StoreError) as caught:
        load(tmp_path / "model", CPU)
    assert f"model: {name} is {fault}; repair it with: snakemake x" in str(caught.value)


def test_is_saved_asks_for_the_same_spec_and_a_manifest(tmp_path: Path):
    assert not is_saved(tmp_path / "model", SPEC)
    saved(tmp_path / "model")
    assert is_saved(tmp_path / "model", json.loads(json.dumps(SPEC)))
    assert not is_saved(tmp_path / "model", {**SPEC, "code": "2"})
    (tmp_path / "model" / "manifest.json").unlink()
    assert not is_saved(tmp_path / "model", SPEC)
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        load(tmp_path / "model", CPU)


def test_saving_again_replaces_a_model_and_what_an_interrupted_save_left(tmp_path: Path):
    saved(tmp_path / "model", seed=1)
    (tmp_path / "model" / "manifest.json").unlink()  # killed after the old manifest was removed
    shutil.copy(tmp_path / "model" / WEIGHTS, tmp_path / "model" / "config.json")
    model = saved(tmp_path / "model", seed=2)
    assert is_saved(tmp_path / "model", SPEC)
    assert same(load(tmp_path / "model", CPU), model)


def test_checkpoints_lie_inside_the_folder_of_the_final_model(tmp_path: Path):
    early = saved(tmp_path / "model" / "checkpoint-1", seed=1)
    final = saved(tmp_path / "model", seed=2)
    assert same(load(tmp_path / "model" / "checkpoint-1", CPU), early)
    assert same(load(tmp_path / "model", CPU), final)
