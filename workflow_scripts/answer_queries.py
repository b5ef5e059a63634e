"""Answer the queries about someone's own model: the page, its table and a summary."""

import json
from pathlib import Path

from attribution.answers import Answer, answer_table, summary_table, write_answer
from attribution.devices import set_up
from attribution.images import read_split
from attribution.kernels import leverage
from attribution.method_inputs import MethodInputs
from attribution.methods import configured
from attribution.provenance import environment, read_manifest
from attribution.stability import top_overlap
from attribution.stores import Reader
from attribution.timings import stage_seconds
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    device, experiment = set_up(settings["compute"]), Path(output.page).parent
    train, _ = read_split(Path(snakemake.input.train).parent, lazy=True)
    queries, _ = read_split(Path(snakemake.input.queries).parent, lazy=True)
    answers = [
        answer(name, settings, experiment, list(snakemake.input), device)
        for name in settings["methods"]
    ]
    table = answer_table(train, queries, answers, settings["galleries"]["images"])
    summary = summary_table(queries, answers, table)
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    shown = table.drop(columns=["query_row", "row"])
    shown.to_csv(output.csv, index=False, float_format="%.6g")
    summary.to_csv(output.summary, index=False, float_format="%.6g")
    write_answer(
        Path(output.page),
        train=train,
        queries=queries,
        answers=answers,
        table=table,
        summary=summary,
        facts=facts(snakemake, settings),
        stages=stage_seconds(experiment / "benchmarks"),
        settings=json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False),
        template=Path(snakemake.input.template),
    )


def answer(name, settings, experiment, files, device):
    """What a method says, with self-influence and stability where it has a kernel."""
    own = settings["methods"][name]
    store = Reader(experiment / "scores" / name / "generation.zarr")
    middle = len(store.read("lambdas")) // 2
    label, scores = settings["labels"][name], store.array("scores")[middle]
    method = configured(own["method"], Path.cwd())
    if method.needs != "kernel":
        return Answer(label, scores)
    inputs = MethodInputs(method, own, "generation", experiment, files, device)
    one, lam = inputs.sets[0], float(inputs.lambdas[middle])
    return Answer(
        label,
        scores,
        leverage(one.decomposition, one.train, lam),
        top_overlap(one.train, one.queries, lam / one.decomposition.mean_eigenvalue),
    )


def facts(snakemake, settings):
    """What was asked of what, for the head of the page."""
    model = read_manifest(Path(snakemake.input.model).parent)
    found = {"Model": f"{settings['pretrained']['model']} ({model['pipeline']}, "
                      f"{model['parameters']:,} parameters)"}  # fmt: skip
    size = model["image_size"]
    for what, path in (
        ("Training images", snakemake.input.train),
        ("Queries", snakemake.input.queries),
    ):
        store = read_manifest(Path(path).parent)
        count, resized = len(store["names"]), store["resized"]
        found[what] = f"{count:,} of {store['folder']}" + (
            f"; {resized:,} of another size were brought to {size}x{size}" if resized else ""
        )
    found["Made by"] = f"commit {environment()['commit']}"
    return found


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
