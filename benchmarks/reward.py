"""How fast is the maths reward, beside plain math-verify and verl's pool?

`benchmarks/reward_throughput.py` measures, block by block in turns; here its report becomes a table.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Result

PACKAGES = ("erpo-verl", "math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime", "verl")
SCRIPT = Path(__file__).with_name("reward_throughput.py")
NAMES = {"ours": "erpo-verl, 2 workers", "single": "erpo-verl, one after the other", "plain": "plain math-verify", "verl": "verl's pool, 4 processes"}


def measure(quick: bool = False) -> Result:
    skipped = ["memory", *(["kill", "bombs"] if quick else []), *([] if importlib.util.find_spec("verl") and not quick else ["verl"])]
    pairs = 150 if quick else 2400
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        subprocess.run(
            [sys.executable, str(SCRIPT), "--pairs", str(pairs), "--json", str(out), "--skip", *skipped], check=True, stdout=subprocess.DEVNULL
        )
        report = json.loads(out.read_text(encoding="utf-8"))
    speed = report["speed"]
    ours = speed["ours"]
    rows = [
        [
            NAMES[name],
            f"{found['per_second']:,.0f}",
            f"{ours['per_second'] / found['per_second']:.1f}",
            f"{found['recall']:.1%}",
            f"{found['false_positives']:.1%}",
        ]
        for name, found in speed.items()
    ]
    bombs = report.get("bombs")
    beside = (
        f" Beside one per cent of answers that never end, the longest wait of a good one was {bombs['longest_good_s']:.1f} s at a limit of "
        f"{bombs['limit_s']:g} s, and {bombs['wrong_on_good']} of {bombs['good']} good ones were judged wrongly."
        if bombs
        else ""
    )
    return Result(
        title="The reward",
        how=f"{pairs:,} synthesised pairs, half of them right, 64 in flight, no cache, in turns block by block. The fast path decides {ours['fast_share']:.1%} of "
        f"them ({ours['fast_wrong']} wrongly); the median answer takes {ours['median_ms']:.1f} ms, the 99th percentile {ours['p99_ms']:.0f} ms." + beside,
        columns=["", "answers/s", "ours / it", "right answers accepted", "wrong answers accepted"],
        rows=rows,
        bound="what the fast path leaves to the workers: sympy's work on functions and sets, tens to hundreds of milliseconds each.",
        packages=PACKAGES,
        figures=report,
    )
