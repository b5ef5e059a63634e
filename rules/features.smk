rule extract_gradients:
    input:
        model=feature_model,
        images=feature_images,
    output:
        part="results/{experiment}/features/{features}/{split}.parts/{shard}-of-{shards}.json",
    log:
        "results/{experiment}/logs/extract_gradients/{features}-{split}-{shard}-of-{shards}.log",
    benchmark:
        "results/{experiment}/benchmarks/extract_gradients/{features}-{split}-{shard}-of-{shards}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("extract_gradients"),
        settings=settings("compute", "diffusion", "features.{features}"),
    script:
        "../workflow_scripts/extract_gradients.py"


rule encode_images:
    input:
        images=lambda wildcards: images(wildcards.split).format(**wildcards),
    output:
        part="results/{experiment}/features/{features}/{split}.parts/encoded.json",
    log:
        "results/{experiment}/logs/encode_images/{features}-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/encode_images/{features}-{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("encode_images"),
        settings=settings("compute", "features.{features}"),
    script:
        "../workflow_scripts/encode_images.py"


rule assemble_features:
    input:
        parts=feature_parts,
    output:
        manifest="results/{experiment}/features/{features}/{split}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/assemble_features/{features}-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/assemble_features/{features}-{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("assemble_store"),
        settings="{}",
    script:
        "../workflow_scripts/assemble_store.py"


rule decompose_kernel:
    input:
        train="results/{experiment}/features/{features}/train.zarr/manifest.json",
    output:
        manifest="results/{experiment}/kernels/{features}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/decompose_kernel/{features}.log",
    benchmark:
        "results/{experiment}/benchmarks/decompose_kernel/{features}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("decompose_kernel"),
        settings=settings("compute"),
    script:
        "../workflow_scripts/decompose_kernel.py"
