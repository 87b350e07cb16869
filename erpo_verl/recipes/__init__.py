"""What the recipes (``scripts/``) do around a run of verl, whatever the method is: none of this is ERPO.

- ``dry_run``        checks a run before it is started: settings, files, batches, lengths, memory; writes its ``run.json``
- ``memory``         how much memory each GPU needs, estimated line by line
- ``architectures``  the sizes of a model that the estimate depends on
- ``metrics_file``   keeps ``metrics.jsonl`` whole over a stop and a second start
"""
