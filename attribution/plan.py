"""`make plan`: what an experiment costs, stage by stage, before anything runs.

A forward pass of the network on one image is F floating-point operations, counted by torch on the
meta device (an addition and a multiplication are two). A training step costs 3 F an image, and so
does a gradient of one image at one timestep; with LoRA both cost 2 F, because the gradients of the
frozen weights are not computed. Left out, because they are small beside the rest: projections, the
autoencoder and text encoder, optimisers, reading and writing.
"""

import difflib
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from attribution.configuration import SPLITS
from attribution.errors import ConfigurationError
from attribution.expansion import (
    counterfactual_methods,
    is_finished,
    is_latent,
    kind,
    needs,
    obstacle,
    stored,
)

# Dense peaks in TFLOP/s by precision, from the vendors' data sheets (A100 and H100/H200 SXM, V100
# SXM2, GeForce Ada and Ampere white papers); V100 has neither TF32 nor bf16 units.
PEAKS = {
    "a100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0},
    "h100": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "h200": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "v100": {"fp32": 15.7, "tf32": 15.7, "bf16": 15.7},
    "rtx4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2},
    "rtx3090": {"fp32": 35.6, "tf32": 35.6, "bf16": 71.2},
}
UTILISATION = 0.3  # of the peak, assumed
MEASURED = "measured"
WEIGHT, SCORE = 4, 4  # bytes
LORA_STATES = (77, 768)  # tokens and width of captions of Stable Diffusion v1
RULES = {
    "train the model": ("train_base",),
    "generate images": ("generate_images", "record_trajectories"),
    "retrain on subsets": ("retrain_subsets",),
    "outputs of the subsets' models": ("evaluate_outputs",),
    "gradients": ("extract_gradients", "encode_images"),
    "kernels and scores": ("decompose_kernel", "score_method", "predict_outputs"),
}
# The targets, each with what its sum is called; a later one counts what earlier ones have not made.
TARGETS = {
    "all": "together",
    "studies": "together with the studies",
    "counterfactual": "together with the counterfactuals",
}


@dataclass(frozen=True)
class Work:
    """One stage: passes of one image through the network by what is done with it, other
    floating-point operations, and bytes on the disk; and the target that needs it."""

    stage: str
    forward: float = 0.0
    training: float = 0.0
    gradients: float = 0.0
    other: float = 0.0
    disk: float = 0.0
    target: str = "all"


@dataclass(frozen=True)
class Rates:
    """Seconds of one image: of a forward pass, in a training step, and of a gradient; and of one
    floating-point operation of other work."""

    forward: float
    training: float
    gradients: float
    operation: float

    def seconds(self, work: Work) -> float:
        """Of a stage."""
        return (
            work.forward * self.forward
            + work.training * self.training
            + work.gradients * self.gradients
            + work.other * self.operation
        )


# --- the work -------------------------------------------------------------------------------------


def stages(experiment: dict[str, Any], parameters: int) -> list[Work]:
    """The stages of an experiment in their order.

    Args:
        experiment: expanded, as `load_experiments` gives it.
        parameters: that are trained and saved.

    Raises:
        ConfigurationError: its model is a finished one, whose cost `make attribute` tells.
    """
    if is_finished(experiment):
        raise ConfigurationError(
            "plan: nothing is trained of a finished model; `python -m attribution attribute … "
            "--only-cost` tells what its answer costs"
        )
    train, saved = experiment["data"]["train"], WEIGHT * parameters
    epochs, generation = experiment["training"]["epochs"], experiment["generation"]
    guided = 2 if is_latent(experiment) and generation["guidance"] != 1 else 1
    sampled = generation["images"] * generation["steps"] * guided
    paths = _along(experiment, _sets(experiment, studies=False))
    work = [
        Work(
            "train the model",
            training=epochs * train,
            disk=saved * (1 + experiment["training"]["checkpoints"]),
        ),
        Work("generate images", forward=sampled * (2 if paths else 1)),
        *_retraining(experiment, "subsets", saved),
    ]
    mine = _sets(experiment, studies=False)
    work.append(_gradients("gradients", experiment, mine))
    work.append(_scores(experiment))
    if experiment["studies"]:
        if experiment["pool"]["count"]:
            work += _retraining(experiment, "pool", saved)
        more = [pair for pair in _sets(experiment, studies=True) if pair not in mine]
        extra = replace(_gradients("gradients", experiment, more), target="studies")
        if paths != _along(experiment, [*mine, *more]):
            extra = replace(extra, forward=extra.forward + sampled)
        work.append(extra)
    if experiment["counterfactual"]:
        work += _counterfactual(experiment, saved, generation["steps"] * guided)
    return work


def _counterfactual(experiment: dict[str, Any], saved: int, passes: int) -> list[Work]:
    """Training models without images and generating queries again, each `passes` long at most.

    Sets of images that happen to be equal are trained on once; here they count as different. Models
    and gradients of methods that the studies need as well count there.
    """
    own, train = experiment["counterfactual"], experiment["data"]["train"]
    removed, controls = own["removed"], [one for one in own["controls"] if one != "reseeded"]
    others = own["reseeded"] if "reseeded" in own["controls"] else 0
    ways = own["queries"] * (len(controls) + len(own["methods"]))
    images = own["queries"] * others + ways * len(removed)
    models = ways
    for one in own["steps"]:
        queries, own_ways = one.get("queries", own["queries"]), len(one["methods"])
        models += queries * own_ways
        shared = len(controls) + len(own["methods"])
        images += queries * (others + (shared + own_ways) * len(removed))
    epochs = experiment["training"]["epochs"]
    trained = sum(models * (train - count) for count in removed) + others * train
    count = models * len(removed) + others
    work = [
        Work("train without images", training=trained * epochs, disk=count * saved),
        Work("generate again", forward=images * passes),
    ]
    if not experiment["studies"]:
        methods = experiment["methods"]
        chosen = {name: methods[name] for name in counterfactual_methods(experiment)}
        known = _sets(experiment, studies=False)
        entries = {"methods": chosen, "variants": {}}
        more = [one for one in _sets({**experiment, **entries}, studies=True) if one not in known]
        pool = max(entry.get("ensemble", 0) for entry in chosen.values())
        if pool:
            part = {**experiment, "pool": {**experiment["pool"], "count": pool}}
            work.insert(0, _retraining(part, "pool", saved)[0])
        if more:
            work.insert(0, _gradients("gradients", experiment, more))
    return [replace(one, target="counterfactual") for one in work]


def _retraining(experiment: dict[str, Any], models: str, saved: int) -> list[Work]:
    """Training the models of the subsets, or of the pool, and evaluating their outputs."""
    own, outputs = experiment[models], experiment["outputs"]
    count = own["count"] * (experiment["retraining"]["seeds"] if models == "subsets" else 1)
    images = int(own["fraction"] * experiment["data"]["train"])
    queries = sum(_queries(experiment, split) for split in SPLITS)
    functions = 1 + (len(outputs["others"]) if models == "subsets" else 0)
    values = count * queries * outputs["noises"] * outputs["groups"] * functions
    whose = {"subsets": "subsets", "pool": "the pool"}[models]
    target = "studies" if models == "pool" else "all"
    return [
        Work(
            f"retrain on {whose}",
            training=count * images * experiment["training"]["epochs"],
            disk=count * saved,
            target=target,
        ),
        Work(
            {"subsets": "outputs of the subsets' models", "pool": "outputs of the pool's models"}[
                models
            ],
            forward=count * queries * outputs["timesteps"] * outputs["noises"],
            disk=4 * values,
            target=target,
        ),
    ]


def _queries(experiment: dict[str, Any], split: str) -> int:
    if split == "train":
        return experiment["data"]["train"]
    if split == "validation":
        return experiment["data"]["validation"]
    return experiment["generation"]["images"]


def _sets(experiment: dict[str, Any], studies: bool) -> list[tuple[str, str]]:
    """The stored feature sets, each with its split, that `all` or the studies read."""
    methods = experiment["methods"].values()
    entries = [entry for entry in methods if studies or not entry.get("deferred")]
    if studies:
        entries += experiment["variants"].values()
    found: dict[tuple[str, str], None] = {}
    for entry in entries:
        splits = [split for split in SPLITS if not obstacle(experiment, entry, split)]
        for train, queries in entry["sets"] if splits else []:
            for split, name in [("train", train), *((split, queries) for split in splits)]:
                for part in stored(experiment["features"], name):
                    found[part, split] = None
    return list(found)


def _along(experiment: dict[str, Any], sets: list[tuple[str, str]]) -> bool:
    features = experiment["features"]
    return any(features[name].get("along") == "trajectory" for name, _ in sets)


def _gradients(stage: str, experiment: dict[str, Any], sets: list[tuple[str, str]]) -> Work:
    work = Work(stage)
    for name, split in sets:
        entry, images = experiment["features"][name], _queries(experiment, split)
        if kind(entry) != "gradient":
            continue
        pairs = images * entry["timesteps"] * entry["noises"]
        width = 2 if entry["dtype"] == "float16" else 4
        work = replace(
            work,
            gradients=work.gradients + pairs,
            forward=work.forward + (pairs if entry["residuals"] else 0),
            disk=work.disk + images * entry["projection"]["dim"] * width,
        )
    return work


def _scores(experiment: dict[str, Any]) -> Work:
    """Decompositions and scores of the methods of `all`."""
    train, lambdas = experiment["data"]["train"], len(experiment["kernel"]["lambdas"])
    operations = disk = 0.0
    decomposed: set[str] = set()
    for entry in experiment["methods"].values():
        splits = [split for split in SPLITS if not obstacle(experiment, entry, split)]
        if entry.get("deferred") or not splits:
            continue
        queries = sum(_queries(experiment, split) for split in splits)
        with_kernel = needs(entry) == "kernel"
        disk += queries * train * SCORE * (lambdas if with_kernel else 1)
        for name, _ in entry["sets"]:
            part = experiment["features"][name]
            if kind(part) != "gradient":
                continue
            dim = part["projection"]["dim"]
            rank = min(train, dim)
            operations += 2 * queries * dim * train
            if not with_kernel:
                continue
            operations += 2 * queries * train * rank * lambdas
            if name not in decomposed:
                decomposed.add(name)
                # The Gram matrix, and the eigendecomposition at about 9 r^3 (Golub, Van Loan 8.3).
                operations += train * dim * rank + 9 * rank**3
                disk += 8 * rank**2
    return Work("kernels and scores", other=operations, disk=disk)


# --- the network ----------------------------------------------------------------------------------


def network(experiment: dict[str, Any], device: str) -> torch.nn.Module:
    """The experiment's network with weights of no meaning, on `device` (`meta` has no numbers)."""
    with torch.device(device):
        if is_latent(experiment):
            from diffusers import UNet2DConditionModel

            from attribution.stable_diffusion import SD_V1_UNET, add_lora

            unet = UNet2DConditionModel(**SD_V1_UNET)
            add_lora(unet, experiment["pretrained"]["lora"]["rank"])
            return unet
        from diffusers import UNet2DModel

        return UNet2DModel(**experiment["model"])


def example(experiment: dict[str, Any], images: int, device: str) -> tuple[Any, ...]:
    """Arguments of a pass: noisy images, a timestep, and captions where the network has them."""
    if is_latent(experiment):
        size = experiment["data"]["image_size"] // 8
        noisy = torch.zeros(images, 4, size, size, device=device)
        return noisy, 10, torch.zeros(images, *LORA_STATES, device=device)
    size, channels = experiment["data"]["image_size"], experiment["data"]["channels"]
    return torch.zeros(images, channels, size, size, device=device), 10


def forward_operations(model: torch.nn.Module, *arguments: Any) -> int:
    """Floating-point operations of a forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*arguments)
    return counter.get_total_flops() // len(arguments[0])


# --- the speed ------------------------------------------------------------------------------------


def named_rates(device: str, experiment: dict[str, Any], operations: int) -> Rates:
    """Of a GPU by name, at the assumed share of its peak.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if device not in PEAKS:
        close = difflib.get_close_matches(device, [*PEAKS, MEASURED], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        known = ", ".join([*PEAKS, MEASURED])
        raise ConfigurationError(f"plan: unknown device {device!r}{hint} Known: {known}")
    each = 1 / (UTILISATION * 1e12 * PEAKS[device][precision(experiment)])
    backward = 2 if is_latent(experiment) else 3
    pass_ = operations * each
    # Kernels are computed in float64, which the data sheets give as about half of float32.
    other = 2 / (UTILISATION * 1e12 * PEAKS[device]["fp32"])
    return Rates(pass_, backward * pass_, backward * pass_, other)


def precision(experiment: dict[str, Any]) -> str:
    """The precision of the network's products: bf16, tf32 or fp32."""
    compute = experiment["compute"]
    return "bf16" if compute["precision"] == "bf16" else "tf32" if compute["tf32"] else "fp32"


def measured_rates(experiment: dict[str, Any]) -> Rates:
    """Of this machine, one job: some passes of this very network in batches of the stages' size."""
    from attribution.devices import set_up

    device = set_up(experiment["compute"])
    model = network(experiment, str(device)).train()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, fused=True)
    whole = math.ceil(experiment["training"]["batch_size"] / experiment["training"]["accumulation"])

    def step() -> None:
        output = model(*example(experiment, whole, str(device))).sample
        output.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    queries = max(_queries(experiment, split) for split in SPLITS)
    batch = min(
        experiment["execution"]["batch"]["outputs"], queries * experiment["outputs"]["timesteps"]
    )

    @torch.inference_mode()
    def forward() -> None:
        model(*example(experiment, batch, str(device)))

    training = _seconds(step, device) / whole
    ahead = _seconds(forward, device) / batch
    matrix = torch.rand(1500, 1500, dtype=torch.float64, device=device)
    product = _seconds(lambda: matrix @ matrix, device) / (2 * 1500**3)
    return Rates(ahead, training, _gradient_seconds(experiment, model, device), product)


def _gradient_seconds(
    experiment: dict[str, Any], model: torch.nn.Module, device: torch.device
) -> float:
    """Of the gradient of one image at one timestep, by the engine that the stage would choose."""
    from attribution.diffusion import schedule
    from attribution.gradients import GradientEngine

    engine = GradientEngine(
        model,
        schedule(experiment["diffusion"]).alphas_cumprod,
        "square",
        engine=experiment["execution"]["gradient_engine"],
        precision=experiment["compute"]["precision"],
    )
    images, steps = experiment["execution"]["batch"]["features"], 10
    clean, _, *states = example(experiment, images, str(device))
    noise = torch.zeros(1, steps, *clean.shape[1:], device=device)
    given = {"encoder_hidden_states": states[0]} if states else {}
    chosen = torch.arange(steps) * 50

    def gradients() -> None:
        engine(clean + 0.1, noise + 0.1, chosen, given)

    return _seconds(gradients, device) / (images * steps)


def _seconds(work: Any, device: torch.device, enough: float = 1.0) -> float:
    """The fastest of some calls, after one that warms up and, if it took long, is the only one."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    fastest = spent = once()
    while spent < enough:
        one = once()
        fastest, spent = min(fastest, one), spent + one
    return fastest


# --- jobs, table ----------------------------------------------------------------------------------


def planned_jobs(name: str, configfiles: list[str], target: str = "all") -> Counter[str]:
    """Jobs by rule from a dry run; empty where Snakemake cannot plan (its message is logged)."""
    line = [sys.executable, "-m", "snakemake", target, "-n", "--quiet", "rules"]
    more = ["--configfile", *configfiles] if configfiles else []
    ended = subprocess.run(
        [*line, *more, "--config", f"run=[{name}]"], capture_output=True, text=True
    )
    pairs = re.findall(r"^(\w+) +(\d+)$", ended.stdout + ended.stderr, flags=re.MULTILINE)
    return Counter({rule: int(count) for rule, count in pairs})


def plan_table(
    works: list[Work], rates: Rates, operations: int, jobs: Counter[str], backward: int, gpus: int
) -> pd.DataFrame:
    """One row a stage: jobs that are left to do, passes, operations, hours on `gpus` GPUs, bytes.

    Training the model is one job; all other stages are divided among the GPUs.
    """
    rows = []
    for work in works:
        alone = work.stage == "train the model"
        passes = work.forward + work.training + work.gradients
        weighed = work.forward + backward * (work.training + work.gradients)
        rows.append({
            "stage": work.stage,
            "for": work.target,
            "jobs": sum(jobs[one] for one in RULES[work.stage]) if work.target == "all" else None,
            "passes": passes,
            "operations": weighed * operations + work.other,
            "hours": rates.seconds(work) / 3600 / (1 if alone else gpus),
            "bytes": work.disk,
        })  # fmt: skip
    return pd.DataFrame(rows).astype({"jobs": "Int64"})


def cheaper(experiment: dict[str, Any], rates: Rates, gpus: int) -> Iterator[tuple[str, float]]:
    """Protocols of the benchmark and the hours of its retraining and outputs, the present first."""

    def hours(subsets: float = 1.0, seeds: float = 1.0, passes: float = 1.0) -> float:
        models, outputs = _retraining(experiment, "subsets", 0)
        share = subsets * seeds
        total = rates.seconds(models) * share + rates.seconds(outputs) * share * passes
        return total / 3600 / gpus

    own = experiment["outputs"]["timesteps"]
    yield "the benchmark as it is", hours()
    yield "three quarters of the subsets", hours(subsets=0.75)
    if experiment["retraining"]["seeds"] > 1:
        yield "one seed", hours(seeds=1 / experiment["retraining"]["seeds"])
    for steps in (100, 20):
        if steps < own:
            yield f"outputs at {steps} timesteps (midpoints)", hours(passes=steps / own)
    if own > 100:
        yield (
            "outputs at 100 timesteps, three quarters of the subsets",
            hours(subsets=0.75, passes=100 / own),
        )


def render(
    name: str,
    table: pd.DataFrame,
    protocols: list[tuple[str, float]],
    head: list[str],
) -> str:
    """The plan for a terminal."""
    lines = [f"{name}: what it costs, before anything runs", *head, ""]
    form = "{:32} {:>6} {:>11} {:>13} {:>10} {:>10}"
    lines.append(form.format("stage", "jobs", "passes", "operations", "hours", "disk"))
    for place, (target, title) in enumerate(TARGETS.items()):
        part = table[table["for"] == target]
        if part.empty:
            continue
        if place:
            lines.append(f"for `{target}`, beyond that:")
        lines += [_line(form, one.stage, one) for one in part.itertuples()]
        upto = table[table["for"].isin(list(TARGETS)[: place + 1])]
        sums = upto[["passes", "operations", "hours", "bytes"]].sum()
        lines.append(_line(form, title, sums))
    lines += [
        "",
        "Retraining and outputs by protocol (docs/studies.md, convergence, says on digits",
    ]
    lines.append("which keep the methods' order):")
    lines += [f"  {title:56} {_hours(hours):>10}" for title, hours in protocols]
    return "\n".join(lines)


def _line(form: str, title: str, one: Any) -> str:
    jobs = getattr(one, "jobs", None)
    return form.format(
        title,
        "" if jobs is None or pd.isna(jobs) else f"{jobs:,}",
        f"{one.passes:.3g}" if one.passes else "",
        f"{one.operations:.3g}",
        _hours(one.hours),
        _size(one.bytes),
    )


def _hours(hours: float) -> str:
    if hours >= 10:
        return f"{hours:,.0f} h"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if size else ""
        size /= 1000
    return f"{size:.3g} TB"


def make_plan(
    name: str, experiment: dict[str, Any], device: str, gpus: int, configfiles: list[str]
) -> tuple[pd.DataFrame, str]:
    """The table, and the text for a terminal."""
    model = network(experiment, "meta")
    parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
    operations = forward_operations(model, *example(experiment, 1, "meta"))
    works = stages(experiment, parameters)
    if device == MEASURED:
        rates = measured_rates(experiment)
        speed = (
            f"measured here, one job at a time: {rates.forward:.3g} s a forward pass, "
            f"{rates.training:.3g} s in training, {rates.gradients:.3g} s a gradient"
        )
    else:
        rates = named_rates(device, experiment, operations)
        peak = PEAKS[device][precision(experiment)]
        speed = (
            f"{device}, {precision(experiment)}: {UTILISATION:.0%} of its peak of {peak:g} TFLOP/s "
            "is assumed, not measured"
        )
    backward = 2 if is_latent(experiment) else 3
    jobs = planned_jobs(name, configfiles)
    table = plan_table(works, rates, operations, jobs, backward, gpus)
    side = f"; {gpus} jobs side by side" if gpus > 1 else ""
    head = [
        f"network: {parameters:,} trained parameters, {operations / 1e9:,.3g} GFLOP a forward pass "
        "of one image",
        speed + side,
    ]
    text = render(name, table, list(cheaper(experiment, rates, gpus)), head)
    return table, text
