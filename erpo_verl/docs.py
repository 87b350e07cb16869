"""Write the tables of the documents from what the code declares: settings, metrics, per-token quantities.

    python -m erpo_verl.docs            write them
    python -m erpo_verl.docs --check    write nothing; exit code 1 if a document is stale

A table stands between ``<!-- made by python -m erpo_verl.docs: NAME -->`` and ``<!-- end -->``; what is around it is written by hand.
Works in a checkout.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from erpo_verl import methods
from erpo_verl.methods.contract import Method
from erpo_verl.methods.declarations import COMMON, Metric, Quantity
from erpo_verl.methods.diagnostics import METRICS
from erpo_verl.settings import Setting, as_yaml, table

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- made by python -m erpo_verl\.docs: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_of_methods() -> list[str]:
    """A table for each method."""
    lines = []
    for method in _built_in():
        lines += [f"### `{method.name}`", "", _sentence(method.about), ""]
        listed = method.settings.settings()
        lines += [*table(listed, method.settings.presets), ""] if listed else ["No settings of its own.", ""]
    return lines[:-1]


def settings_in_short() -> list[str]:
    """The README's table: ERPO's settings, one line each, and what else there is."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    config = methods.get("erpo").settings
    for item in config.settings():
        lines.append(f"| `{item.name}` | {_default(item, config.presets)} | {item.help} |")
    return lines


def trainer_keys() -> list[str]:
    """The Accelerate engine's keys, as they are where no other package brings a method."""
    from erpo_verl.trainer.schema import KEYS

    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key in KEYS:
        if key.name == "algorithm.adv_estimator":
            key = replace(key, choices=methods.BUILT_IN)
        if key.name.removeprefix("algorithm.") not in set(methods.registered()) - set(methods.BUILT_IN):
            lines.append(f"| `{key.name}` | {key.written} | {key.allowed} | {key.help} |")
    return lines


def reward_settings() -> list[str]:
    """The maths reward's settings."""
    from erpo_verl.reward import RewardConfig

    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    return lines + [f"| `{item.name}` | `{item.written}` | {item.allowed} | {item.help} |" for item in RewardConfig.settings()]


def metrics() -> list[str]:
    """The metrics of every method, then each method's own."""
    lines = ["### Of every method", "", *_metrics(METRICS), ""]
    for method in _built_in():
        if method.metrics:
            lines += [f"### Of `{method.name}`", "", *_metrics(method.metrics), ""]
    return lines[:-1]


def token_quantities() -> list[str]:
    """The per-token quantities of every method, then each method's own."""
    lines = ["| quantity | of | meaning | unit | source |", "|---|---|---|---|---|", *(_quantity(item, "every method") for item in COMMON)]
    return lines + [_quantity(item, f"`{method.name}`") for method in _built_in() for item in method.tokens]


def methods_in_short() -> list[str]:
    """One line a method."""
    return ["| method | what it does |", "|---|---|", *(f"| `{method.name}` | {_sentence(method.about)} |" for method in _built_in())]


TABLES: dict[str, Callable[[], list[str]]] = {
    "settings": settings_of_methods,
    "settings-in-short": settings_in_short,
    "trainer-keys": trainer_keys,
    "reward-settings": reward_settings,
    "metrics": metrics,
    "token-quantities": token_quantities,
    "methods": methods_in_short,
}
DOCUMENTS = ("README.md", "docs/settings.md", "docs/metrics.md", "docs/trainer.md", "docs/method.md", "docs/reward.md")


def rendered(text: str) -> str:
    """A document with its tables as they should be.

    Raises:
        KeyError: it names a table that there is not.
    """
    return _MARKED.sub(lambda found: found[1] + "\n".join(TABLES[found["name"]]()) + "\n" + found[3], text)


def stale(root: Path = ROOT) -> dict[Path, str]:
    """The documents that are not as they should be, and what they should be."""
    files = {root / name: (root / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    wanted = {file: rendered(text) for file, text in files.items()}
    return {file: text for file, text in wanted.items() if text != files[file]}


def main(argv: list[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m erpo_verl.docs", description="Write the tables of the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a document is stale")
    check = parser.parse_args(argv).check
    found = stale()
    for file, text in found.items():
        if not check:
            file.write_text(text, encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {'stale, run python -m erpo_verl.docs' if check else 'written'}")
    return int(check and bool(found))


def _built_in() -> list[Method]:
    return [methods.get(name) for name in methods.BUILT_IN]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def _default(item: Setting, presets: dict) -> str:
    other = "; ".join(f"{name}: {as_yaml(values[item.name])}" for name, values in presets.items() if item.name in values)
    return item.written + (f" ({other})" if other else "")


def _metrics(listed: tuple[Metric, ...]) -> list[str]:
    lines = ["| name | meaning | unit, range | source |", "|---|---|---|---|"]
    return lines + [f"| `{item.name}` | {item.meaning} | {item.unit} | {item.source} |" for item in listed]


def _quantity(item: Quantity, owner: str) -> str:
    return f"| `{item.name}` | {owner} | {item.meaning} | {item.unit or '-'} | {item.source or '-'} |"


if __name__ == "__main__":
    raise SystemExit(main())
