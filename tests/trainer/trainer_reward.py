"""A reward that a random policy can earn and learn: the share of digits among the characters of a response."""

import time


def digits(data_source, solution_str, ground_truth, extra_info, pause=0.0):
    time.sleep(pause)  # seconds: steps so long that a test's signal finds the run inside one
    share = sum(c.isdigit() for c in solution_str) / max(1, len(solution_str))
    return {"score": share, "acc": float(share > 0.5), "pred": solution_str[:1]}
