rule tables:
    input:
        expand("results/{experiment}/tables/lds.csv", experiment=config["run"]),
rule figures:
    input: []
rule models:
    input: []
rule features:
    input: []
rule scores:
    input: []
