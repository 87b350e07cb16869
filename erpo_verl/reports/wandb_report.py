"""``erpo compare --wandb``: the same comparison as a report in W&B, over the runs that were logged there.

The report is built without a connection. It is saved only where an account is; nothing else of it leaves the machine, and no
key is read, asked for or written here: W&B's own client does that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from erpo_verl.reports.metrics import PANELS, held_out_panels, method_panels
from erpo_verl.reports.runs import held_out
from erpo_verl.reports.words import Report, markdown

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr


class WandbError(RuntimeError):
    """The report cannot be made or saved; the message says what to do. Nothing was sent."""


def project_of(report: Report, given: str | None) -> tuple[str, str]:
    """(entity, project) that hold the runs: as ``[entity/]project`` says, else the project of the runs' settings.

    Raises:
        WandbError: none is given and the runs do not name one and the same.
    """
    if given:
        entity, _, project = given.rpartition("/")
        if not project:
            raise WandbError(f"--project {given!r}: not [entity/]project")
        return entity, project
    named = {_setting(run.record, "trainer", "project_name") for run in report.runs}
    if len(named) != 1 or None in named:
        names = ", ".join(sorted(str(name) for name in named if name)) or "none"
        raise WandbError(f"which W&B project holds these runs? Give --project [entity/]project (their settings name: {names})")
    return "", named.pop()


def build(report: Report, entity: str, project: str) -> wr.Report:
    """The report: the tables as text, then the page's panels with a set of runs for each arm, told by the runs' names.

    Raises:
        WandbError: wandb-workspaces is not installed.
    """
    wr = _library()
    from wandb_workspaces import expr

    # A set's project is left empty: it is the report's. To name it, the library would ask W&B for its number.
    runsets = [wr.Runset(name=arm, filters=expr.And(expr.Metric("Name").isin(_names(report, arm)))) for arm in report.arms]
    blocks: list[Any] = [wr.MarkdownBlock(text=markdown(report)), wr.TableOfContents()]
    sections: dict[str, list[Any]] = {}
    for panel in [*held_out_panels(held_out(report.runs)), *PANELS, *method_panels()]:
        names = [curve.name for curve in panel.curves if any(curve.name in run.series for run in report.runs)]
        # W&B has no axis of generated tokens in these runs; the page has.
        if names and not panel.over_tokens:
            title = panel.title + (f" ({panel.unit})" if panel.unit else "")
            sections.setdefault(panel.section, []).append(wr.LinePlot(title=title, x="Step", y=names, smoothing_factor=0))
    for section, plots in sections.items():
        blocks += [wr.H2(text=section), wr.PanelGrid(runsets=runsets, panels=plots)]
    title = ("Comparison: " + ", ".join(report.arms))[:128]
    return wr.Report(entity=entity, project=project, title=title, description="Made by erpo compare.", blocks=blocks, width="fluid")


def save(report: Report, given: str | None) -> str:
    """Build the report and save it in W&B; returns its address.

    Raises:
        WandbError: a package is missing, W&B is off or offline, there is no account on this machine, or W&B refuses.
    """
    _library()
    entity, project = project_of(report, given)
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise WandbError(f"no W&B report: WANDB_MODE={mode}. Nothing was sent; the page beside it holds the same")
    import wandb

    if not _has_account():
        raise WandbError("no W&B report: this machine is not logged in (wandb login, or WANDB_API_KEY). Nothing was sent; the page holds the same")
    try:
        made = build(report, entity or wandb.Api().default_entity, project)
        made.save()
        return made.url
    except WandbError:
        raise
    except Exception as error:  # the client's errors share no class: no network, no right to write, an unknown project
        raise WandbError(f"W&B did not take the report: {type(error).__name__}: {error}") from error


def _library() -> Any:
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise WandbError('--wandb needs wandb-workspaces: pip install "erpo-verl[wandb]"') from None
    return wr


def _has_account() -> bool:
    """Whether W&B's client has a key for its server; it looks where it always does, and asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    from pathlib import Path
    from urllib.parse import urlsplit

    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(str(path)).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


def _names(report: Report, arm: str) -> list[str]:
    """The names under which an arm's runs are in W&B."""
    names = [_setting(run.record, "trainer", "experiment_name") or run.label for run in report.arms[arm]]
    for name in names:
        if any(sign in name for sign in "'\"\\\n"):
            raise WandbError(f"a W&B report cannot choose the run {name!r}: its name holds a quote, a backslash or a line break")
    return names


def _setting(record: dict[str, Any], section: str, name: str) -> str | None:
    inner = record.get("config")
    inner = inner.get(section) if isinstance(inner, dict) else None
    value = inner.get(name) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else None
