"""The plan: operations against hand counts, passes against the paper's protocol."""

from collections import Counter

import pytest
import torch
from configurations import mine, shipped
from torch import nn

from attribution.__main__ import main
from attribution.configuration import load_experiments
from attribution.errors import ConfigurationError
from attribution.plan import (
    Rates,
    cheaper,
    example,
    forward_operations,
    measured_rates,
    named_rates,
    network,
    plan_table,
    render,
    stages,
)

torch.set_num_threads(1)
NO_TIME = Rates(0, 0, 0, 0)


@pytest.fixture(scope="module")
def experiments():
    return load_experiments(shipped())


def by_stage(experiment, parameters=100):
    return {(one.stage, one.target): one for one in stages(experiment, parameters)}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(8, 7)

    def forward(self, images, timestep):
        return self.last(self.first(images))


def test_operations_of_a_small_network_by_hand():
    found = forward_operations(Small(), torch.zeros(2, 3, 4, 8), 0)
    convolution = 2 * (4 * 8) * 5 * (3 * 3 * 3)
    linear = 2 * (5 * 4) * 8 * 7
    assert found == convolution + linear


def test_the_papers_network_takes_what_is_known_of_it(experiments):
    settings = {**experiments["cifar2"]["model"], "resnet_time_scale_shift": "default"}
    plain = {**experiments["cifar2"], "model": settings}
    model = network(plain, "meta")
    assert sum(one.numel() for one in model.parameters()) == 35_746_307
    # About 6.06 GMAC a pass are published of the DDPM of 35.7 million parameters at 32x32.
    assert forward_operations(model, *example(plain, 1, "meta")) / 2e9 == pytest.approx(
        6.06, rel=0.03
    )


def test_passes_are_those_of_the_papers_protocol(experiments):
    work = by_stage(experiments["cifar2"], 38_307_203)
    assert work["train the model", "all"].training == 200 * 5000
    assert work["retrain on subsets", "all"].training == 64 * 3 * 200 * 2500
    outputs = work["outputs of the subsets' models", "all"]
    assert outputs.forward == 2 * 64 * 3 * 3 * 1000 * 1000  # both splits
    assert work["retrain on the pool", "studies"].training == 512 * 200 * 2500
    assert work["outputs of the pool's models", "studies"].forward == 2 * 512 * 3 * 1000 * 1000
    # 5,000 + 1,000 + 1,000 images; simple and square at 10 and 100, both again with one noise at
    # 10, DAS, and three checkpoints before the final one at 10; and the paths of 50 steps.
    steps = 2 * (10 + 100) + 2 * 10 + 10 + 3 * 10
    assert work["gradients", "all"].gradients == 7000 * steps + 1000 * 50
    assert work["generate images", "all"].forward == 2 * 1000 * 50  # and their paths
    assert work["retrain on subsets", "all"].disk == 4 * 38_307_203 * 192


def test_counterfactuals_train_a_model_for_each_query_and_way(experiments):
    work = by_stage(experiments["digits"])
    trained = 20 * 4 * 910 + 2 * 8 * 2 * 910 + 3 * 1000
    assert work["train without images", "counterfactual"].training == 40 * trained
    assert work["train without images", "counterfactual"].disk == 115 * 400
    cases = 20 * (3 + 4) + 2 * 8 * (3 + 4 + 2)
    assert work["generate again", "counterfactual"].forward == 50 * cases
    alone = by_stage({**experiments["digits"], "studies": {}})
    pool = alone["retrain on the pool", "counterfactual"]
    assert pool.training == 8 * 500 * 40
    # The ensembles' 8 models: training images at 10 timesteps, queries at two with 10 noises; and
    # the base model's queries at these two.
    pairs = 8 * 1000 * 10 + (8 + 1) * 2 * 200 * 10
    assert alone["gradients", "counterfactual"].gradients == pairs


def test_latent_experiments_cost_two_passes_and_guidance(experiments):
    own = experiments["artbench2"]
    work = by_stage(own)
    assert work["generate images", "all"].forward == 2 * 2 * 1000 * 50
    rates = named_rates("a100", own, 1000)
    assert rates.training == 2 * rates.forward
    assert rates.forward == pytest.approx(1000 / (0.3 * 312e12))


def test_hours_and_jobs_of_the_table(experiments):
    own = experiments["cifar2"]
    rates = Rates(forward=1.0, training=3.0, gradients=3.0, operation=0.0)
    jobs = Counter({"retrain_subsets": 192, "train_base": 1})
    table = plan_table(stages(own, 10), rates, 7, jobs, 3, gpus=4).set_index("stage")
    retrained = table.loc["retrain on subsets"]
    assert retrained["hours"] == pytest.approx(3 * 64 * 3 * 200 * 2500 / 3600 / 4)
    assert retrained["operations"] == 3 * 7 * 64 * 3 * 200 * 2500
    assert retrained["jobs"] == 192
    assert table.loc["train the model"]["hours"] == pytest.approx(3 * 200 * 5000 / 3600)


def test_cheaper_protocols(experiments):
    rates = Rates(forward=1.0, training=3.0, gradients=3.0, operation=0.0)
    found = dict(cheaper(experiments["cifar2"], rates, 1))
    models, outputs = 3 * 64 * 3 * 200 * 2500 / 3600, 2 * 64 * 9 * 1e6 / 3600
    assert found["the benchmark as it is"] == pytest.approx(models + outputs)
    assert found["three quarters of the subsets"] == pytest.approx(0.75 * (models + outputs))
    assert found["one seed"] == pytest.approx((models + outputs) / 3)
    assert found["outputs at 100 timesteps (midpoints)"] == pytest.approx(models + outputs / 10)


def test_measured_rates_are_of_this_network():
    small = mine(model__block_out_channels=[8, 8], model__norm_num_groups=4)
    large = mine(model__block_out_channels=[32, 64], model__norm_num_groups=4)
    few, many = measured_rates(small), measured_rates(large)
    for name in ("forward", "training", "gradients"):
        assert 0 < getattr(few, name) < getattr(many, name)
    assert few.forward < few.training


def test_what_cannot_be_planned_is_said(experiments, capsys):
    with pytest.raises(ConfigurationError, match="unknown device 'a10'; did you mean 'a100'"):
        named_rates("a10", experiments["digits"], 1)
    assert main(["plan", "cifar3"]) == 1
    assert "unknown experiment 'cifar3'; did you mean 'cifar2'?" in capsys.readouterr().err


def test_the_plan_is_printed_and_written(tmp_path, capsys):
    assert main(["plan", "smoke", "--device", "a100", "--csv", str(tmp_path / "plan.csv")]) == 0
    printed = capsys.readouterr().out
    for text in (
        "retrain on subsets", "for `studies`, beyond that:", "is assumed, not measured",
        "for `counterfactual`, beyond that:", "together with the counterfactuals",
    ):  # fmt: skip
        assert text in printed
    assert "outputs of the pool's models" in (tmp_path / "plan.csv").read_text()


def test_a_plan_names_what_studies_add(experiments):
    works = stages(experiments["digits"], 159_697)
    text = render("digits", plan_table(works, NO_TIME, 1, Counter(), 3, 1), [], ["head"])
    assert text.index("together") < text.index("for `studies`") < text.index("on the pool")
