"""Evaluation of models: sampling, avg@k, unbiased pass@k, maj@k, lengths, intervals, paired tests."""
