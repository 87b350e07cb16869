"""The maths reward: a judge around math-verify that cannot be hung, starved or fooled.

- verl: `reward.custom_reward_function.path=pkg://erpo_verl.reward`, `name=compute_score`
- Python: `score(response, gold)`, or a `MathJudge` with its own `RewardConfig`
- files: `erpo score IN.jsonl OUT.jsonl`

Importing this package imports neither sympy nor math-verify; the worker processes do.
"""

from .config import RewardConfig, RewardConfigError
from .gold import GoldProblem, check_golds, gold_answers
from .judge import MathJudge, group_answers, shared_judge
from .metrics import batch_metrics
from .pool import RewardSetupError, close_all
from .verdict import KEYS, POLICY_VERSION, Reason, Verdict
from .verl_reward import compute_score, score

__all__ = [
    "KEYS",
    "POLICY_VERSION",
    "GoldProblem",
    "MathJudge",
    "Reason",
    "RewardConfig",
    "RewardConfigError",
    "RewardSetupError",
    "Verdict",
    "batch_metrics",
    "check_golds",
    "close_all",
    "compute_score",
    "gold_answers",
    "group_answers",
    "score",
    "shared_judge",
]
