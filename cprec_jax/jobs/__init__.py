"""One file per job: which artefacts a config means, from what each is made, and how. `run` walks the graph, `status`
prints it."""
