"""A reward that a random policy can earn and learn: the share of digits among the characters of a response."""


def digits(data_source, solution_str, ground_truth, extra_info):
    share = sum(c.isdigit() for c in solution_str) / max(1, len(solution_str))
    return {"score": share, "acc": float(share > 0.5), "pred": solution_str[:1]}
