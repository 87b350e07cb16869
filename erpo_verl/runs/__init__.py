"""What a run leaves and how it is read: ``run.json``, ``metrics.jsonl``, dumps of rollouts, names of arms and seeds. Needs no engine."""
