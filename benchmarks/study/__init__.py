"""The study of docs/study.md: token-level credit beside GRPO on small tasks, by a protocol written before the runs."""
