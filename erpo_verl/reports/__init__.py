"""What came out of runs: figures and tables from their ``metrics.jsonl``."""
