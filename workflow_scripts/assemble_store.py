"""Check that the parts of a store are all there and write its manifest."""

import json
import shutil
from pathlib import Path

from attribution.errors import StoreError
from attribution.reuse import previous_path
from attribution.stores import Writer
from attribution.workflow import job, repair


def main(snakemake):
    path = Path(snakemake.output.manifest).parent
    parts = [json.loads(Path(part).read_text(encoding="utf-8")) for part in snakemake.input.parts]
    record = parts[0]["manifest"]
    for part, name in zip(parts, snakemake.input.parts, strict=True):
        if part["manifest"] != record:
            raise StoreError(
                f"{name} was made in another way than the other parts of {path} "
                f"({part['manifest']} against {record}); make all again with: "
                f"{repair(snakemake.output.manifest, *snakemake.input.parts)}"
            )
    timings = [part["timings"] for part in parts if "timings" in part]
    if timings:
        record["timings"] = {name: sum(one[name] for one in timings) for name in timings[0]}
    Writer.reopen(path).finish(
        repair=repair(snakemake.output.manifest, *snakemake.input.parts),
        seconds=sum(part["seconds"] for part in parts),
        **record,
    )
    shutil.rmtree(previous_path(path), ignore_errors=True)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
