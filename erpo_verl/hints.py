"""What to look at where nothing of a first batch is right: said once, while a run can still be stopped without a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_LOOKED_AT = 256  # responses
_MOST = 0.5  # share from which a cause is told
_SHOWN = 80  # last characters of a response


def first_batch(
    texts: Sequence[str],
    golds: Sequence[Any],
    right: Sequence[float],
    finished: Sequence[bool],
    *,
    judge: Mapping[str, Any] | None = None,
    reasons: Sequence[int] = (),
    forms_key: str = "",
    length_key: str = "",
) -> list[str]:
    """Lines about a batch of which nothing is right; none where something is.

    Args:
        texts: the responses.
        golds: of each its gold.
        right: of each its accuracy, or its score where there is none.
        finished: of each whether it ended by itself.
        judge: settings of the maths reward, by name; None where another function judged.
        reasons: of each why it was judged so, `erpo_verl.reward.Reason`.
        forms_key, length_key: how the command names the forms of a final answer, and the longest response.
    """
    if not texts or any(value > 0 for value in right):
        return []
    n = len(texts)
    lines = [f"nothing of the first batch is right ({n} responses)"]
    if judge is not None:
        lines += _unboxed(texts, golds, judge, forms_key)
        lines += _refused(reasons)
    cut = sum(not whole for whole in finished)
    if cut >= _MOST * n:
        lines.append(f"{cut} of {n} were cut off: {length_key} may be too short")
    empty = sum(not text.strip() for text in texts)
    if empty >= _MOST * n:
        lines.append(f"{empty} of {n} are empty")
    else:
        lines.append(f"the first one ends in {texts[0].rstrip()[-_SHOWN:]!r}, where the gold is {str(golds[0])[:_SHOWN]!r}")
    return lines


def _unboxed(texts: Sequence[str], golds: Sequence[Any], settings: Mapping[str, Any], key: str) -> list[str]:
    """Whether other forms of a final answer would be right."""
    from erpo_verl.reward import RewardConfig, shared_judge

    config = RewardConfig.from_mapping({**settings, "answer_forms": "any"})
    pairs = list(zip(texts, golds, strict=True))[:_LOOKED_AT]
    found = sum(result["acc"] > 0 for result in shared_judge(config).score_many(pairs))
    if not found:
        return []
    return [
        f"{found} of {len(pairs)} would be right if a final answer counted in any form, in a box or as in 'Answer: 7': {key}=any reads them, and "
        "`erpo prepare --answer-forms any` has the data remember it"
    ]


def _refused(reasons: Sequence[int]) -> list[str]:
    from erpo_verl.reward import Reason

    told = {
        Reason.NO_BOX: "hold no final answer in a form that counts", Reason.TRUNCATED: "leave their box open",
        Reason.UNCLOSED_THINK: "leave <think> open, or lack the </think> that require_think wants",
        Reason.GOLD_UNREADABLE: "have a gold that the reward cannot read", Reason.TIMEOUT: "took the judge too long",
    }  # fmt: skip
    counts = Counter(Reason(int(reason)) for reason in reasons)
    return [f"{counts[reason]} of {len(reasons)} {words}" for reason, words in told.items() if counts[reason] >= _MOST * len(reasons) > 0]
