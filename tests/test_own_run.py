"""Someone's own models, from the command to the answer, as a new user asks for it."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from own_models import edit, write_images, write_pipeline
from PIL import Image
from tiny_models import write_stable_diffusion
from workflow_copy import arrays, copy_workflow, dump, execute

from attribution.diffusion import NoiseBank, add_noise
from attribution.models import build_lora
from attribution.projection import build_projector
from attribution.stable_diffusion import save_lora

torch.set_num_threads(1)
ASK = [sys.executable, "-m", "attribution", "attribute", "--name", "mine", "--cores", "2"]
ANSWER = Path("results/mine")


def ask(root: Path, model="model", images="images", queries="queries") -> tuple[int, str]:
    paths = ["--model", model, "--images", images, "--queries", queries]
    ended = execute(root, [*ASK, *paths])
    return ended.code, ended.text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow with someone's model, 12 images and 3 queries, answered once."""
    root = copy_workflow(tmp_path_factory.mktemp("own") / "copy")
    config = root / "config.yaml"  # one shard: each is a process that imports torch
    config.write_text(config.read_text().replace("feature_shards: 4", "feature_shards: 1"))
    write_pipeline(root / "model")
    write_images(root / "images", 11)
    Image.new("RGB", (20, 16), "red").save(root / "images/wide.jpg")
    write_images(root / "queries", 2, seed=1)
    (root / "queries/copy.png").write_bytes((root / "images/004.png").read_bytes())
    code, text = ask(root)
    assert code == 0, text
    assert "12 training images, 3 queries, DDPMPipeline of 1 x 8 x 8" in text
    assert re.search(r"square_10: 10 timesteps, [\d,]+ parameters, .* s an image on cpu", text)
    return root


def computed(root: Path, split: str) -> int:
    """Images whose features the last jobs of a split have computed."""
    logs = (root / ANSWER / "logs/extract_gradients").glob(f"square_10-{split}-*.log")
    return sum(int(re.search(r"features of (\d+) images", log.read_text())[1]) for log in logs)


def plain_scores(root: Path) -> np.ndarray:
    """D-TRAK (paper Eq. 9) from gradients by autograd, one image and timestep at a time."""
    pipeline = DDPMPipeline.from_pretrained(root / "model")
    network, alphas = pipeline.unet.eval(), pipeline.scheduler.alphas_cumprod
    bank = NoiseBank("feature noise", 0, 1, (1, 8, 8))
    size = sum(parameter.numel() for parameter in network.parameters())
    projector = build_projector("count_sketch", size, 4096, 0)
    features = {}
    for place in ("data/train", "generated/generation"):
        rows = []
        for image in arrays(root / ANSWER / f"{place}.zarr")["images"]:
            total = torch.zeros(size)
            for step in range(5, 100, 10):
                noise = torch.from_numpy(bank.noise(0, step, ["any"]))
                clean = torch.from_numpy(image).float()[None] / 127.5 - 1
                noisy = add_noise(clean, noise, alphas[[step]])
                output = network(noisy, torch.tensor([step])).sample.square().mean()
                gradients = torch.autograd.grad(output, list(network.parameters()))
                total += torch.cat([one.flatten() for one in gradients])
            rows.append(projector.project(total[None] / 10)[0].double().numpy())
        features[place] = np.array(rows)
    train, queries = features.values()
    gram = train @ train.T
    lam = 0.1 * np.trace(gram) / len(gram)
    return queries @ train.T @ np.linalg.inv(gram + lam * np.eye(len(gram)))


def test_the_scores_are_those_of_plain_autograd(root: Path):
    stored = arrays(root / ANSWER / "scores/dtrak/generation.zarr")["scores"][0]
    expected = plain_scores(root)
    np.testing.assert_allclose(stored, expected, atol=1e-4 * np.abs(expected).max())


def test_the_answer_names_files_and_finds_the_copy(root: Path):
    table = pd.read_csv(root / ANSWER / "answer.csv")
    assert set(table["query"]) == {"000.png", "001.png", "copy.png"}
    first = table[(table["query"] == "copy.png") & (table["rank"] == 1)]
    best = first[(first["method"] == "D-TRAK") & (first["side"] == "proponent")].iloc[0]
    assert (best["file"], best["like_query"]) == ("004.png", True)
    page = (root / ANSWER / "answer.html").read_text()
    assert "1 of another size were brought to 8x8" in page
    assert len(pd.read_csv(root / ANSWER / "summary.csv")) == 6


def test_only_what_is_new_is_computed(root: Path):
    before = pd.read_csv(root / ANSWER / "answer.csv")
    write_images(root / "queries", 1, seed=2, prefix="later-")
    assert ask(root)[0] == 0
    assert computed(root, "generation") == 1
    after = pd.read_csv(root / ANSWER / "answer.csv")
    kept = after[after["query"] != "later-000.png"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before, atol=1e-4)
    write_images(root / "images", 2, seed=3, prefix="0-")
    assert ask(root)[0] == 0
    assert (computed(root, "train"), computed(root, "generation")) == (2, 1)
    stored = arrays(root / ANSWER / "scores/dtrak/generation.zarr")["scores"][0]
    expected = plain_scores(root)
    np.testing.assert_allclose(stored, expected, atol=1e-4 * np.abs(expected).max())
    code, text = ask(root)  # nothing is new
    assert (code, "jobs to do" in text) == (0, False), text


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ({"model": "modle"}, "pretrained.model: modle is neither a folder nor a hub id"),
        ({"images": "imgaes"}, "data.path: imgaes is not a folder"),
        ({"queries": "model/unet"}, "holds no images"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(root: Path, paths: dict, sentence: str):
    code, text = ask(root, **paths)
    assert code != 0
    assert sentence in text
    assert "Traceback" not in text


def test_files_that_are_no_images_are_named(root: Path):
    bad = root / "bad"
    write_images(bad, 1)
    (bad / "no.png").write_text("text")
    code, text = ask(root, queries="bad")
    assert code != 0
    assert re.search(r"1 file of 2 cannot be read as images: \S*bad/no.png; remove or", text)


def test_an_experiment_of_ones_own_file_does_the_same(root: Path):
    own = {
        "pretrained": {"model": str(root / "model")},
        "data": {"path": str(root / "images")},
        "generation": {"path": str(root / "queries")},
    }
    (root / "own.yaml").write_text(dump({"run": ["mine"], "experiments": {"mine": own}}))
    line = [sys.executable, "-m", "snakemake", "-n", "--configfile", "own.yaml"]
    ended = execute(root, line)
    assert ended.code == 0
    assert "train_base" not in ended.text


# --- Stable Diffusion with LoRA -------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusion(root: Path) -> Path:
    """The same copy with someone's Stable Diffusion, LoRA, images and prompts, answered once."""
    write_stable_diffusion(root / "sd")
    unet = build_lora({"model": str(root / "sd"), "lora": {"rank": 2}}, 0.0, 0)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    save_lora(unet, root / "lora")
    names = [f"{number:03d}.png" for number in range(6)]
    lines = [f"{name},a {name[2:3]} cat painting" for name in names]
    (root / "prompts.csv").write_text("\n".join(["file,prompt", *lines[:5], "005.png,"]) + "\n")
    for place, count, seed in (("paintings", 6, 3), ("asked", 2, 4)):
        (root / place).mkdir()
        pictures = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        for name, picture in zip(names, pictures, strict=False):
            Image.fromarray(picture).save(root / place / name)
    code, text = ask_diffusion(root)
    assert code == 0, text
    assert "6 training images, 2 queries, StableDiffusionPipeline of 3 x 16 x 16" in text
    return root


def ask_diffusion(root: Path, model: str = "sd", **more: str) -> tuple[int, str]:
    chosen = {"adapter": "lora", "prompts": "prompts.csv", "name": "sd", **more}
    options = [part for key, value in chosen.items() for part in (f"--{key}", value)]
    paths = ["--model", model, "--images", "paintings", "--queries", "asked"]
    ended = execute(root, [*ASK[:4], *paths, *options])
    return ended.code, ended.text


def test_lora_is_attributed_as_by_plain_autograd_on_the_pipeline(diffusion: Path):
    pipeline = StableDiffusionPipeline.from_pretrained(diffusion / "sd", safety_checker=None)
    pipeline.load_lora_weights(diffusion / "lora")
    abar, bank = pipeline.scheduler.alphas_cumprod, NoiseBank("feature noise", 0, 1, (4, 8, 8))
    trained = [one for name, one in pipeline.unet.named_parameters() if "lora_" in name]
    size = sum(one.numel() for one in trained)
    projector = build_projector("count_sketch", size, 4096, 0)
    prompts = pd.read_csv(diffusion / "prompts.csv").fillna("").set_index("file")["prompt"]
    features = {}
    for place in ("paintings", "asked"):
        rows = []
        for file in sorted((diffusion / place).iterdir()):
            pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
            states, _ = pipeline.encode_prompt(prompts[file.name], torch.device("cpu"), 1, False)
            with torch.no_grad():
                clean = pipeline.vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
            clean = clean * pipeline.vae.config.scaling_factor
            total = torch.zeros(size)
            for step in range(50, 1000, 100):
                noise = torch.from_numpy(bank.noise(0, step, ["any"]))
                noisy = add_noise(clean, noise, abar[[step]])
                output = pipeline.unet(noisy, step, encoder_hidden_states=states.detach()).sample
                gradients = torch.autograd.grad(output.square().mean(), trained)
                total += torch.cat([one.flatten() for one in gradients])
            rows.append(projector.project(total[None] / 10)[0].double().numpy())
        features[place] = np.array(rows)
    train, queries = features.values()
    gram = train @ train.T
    expected = queries @ train.T @ np.linalg.inv(gram + 0.1 * np.trace(gram) / 6 * np.eye(6))
    stored = arrays(diffusion / "results/sd/scores/dtrak/generation.zarr")["scores"][0]
    np.testing.assert_allclose(stored, expected, atol=1e-3 * np.abs(expected).max())
    assert len(pd.read_csv(diffusion / "results/sd/summary.csv")) == 4


def test_what_does_not_fit_of_a_stable_diffusion_is_said(diffusion: Path):
    lines = (diffusion / "prompts.csv").read_text().splitlines()
    (diffusion / "few.csv").write_text("\n".join(lines[:-2]) + "\n")
    code, text = ask_diffusion(diffusion, prompts="few.csv", name="few")
    assert code != 0
    assert "few.csv has no prompt of 2 of 6 images: 004.png, 005.png; add them" in text
    code, text = ask_diffusion(diffusion, adapter="prompts.csv", name="bad")
    assert code != 0
    assert "pretrained.adapter: diffusers cannot read prompts.csv as LoRA weights" in text
    edit(diffusion / "sd/unet/config.json", addition_embed_type="text_time")
    code, text = ask_diffusion(diffusion)
    assert code != 0
    assert "is that of Stable Diffusion XL" in text
    assert "Traceback" not in text
