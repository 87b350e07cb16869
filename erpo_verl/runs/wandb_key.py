"""Whether W&B can log in here, found out without importing it: without a key its start fails, after a model has been loaded."""

from __future__ import annotations

import configparser
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_CLOUD = "https://api.wandb.ai"
_WITHOUT_LOGIN = ("offline", "disabled", "dryrun")
_ADVICE = "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to keep the run on this disk"


def problem(environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str | None:
    """Why W&B could not log in, with what to do; None where it could, or need not.

    As W&B 0.31 itself looks: the mode and the server from the environment, ``wandb/settings`` of the working folder or the settings of the
    user; the key from the environment, the netrc file or these settings. Whether the server takes the key is not asked.

    Args:
        environment: None for that of this process.
        folder: the working folder; None for that of this process.
    """
    env = dict(os.environ if environment is None else environment)
    home = Path(env.get("HOME") or Path.home())
    config = Path(env.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb") / "settings"
    settings = {**_settings(config), **_settings((folder or Path.cwd()) / "wandb" / "settings")}
    mode = env.get("WANDB_MODE") or settings.get("mode", "")
    if mode in _WITHOUT_LOGIN or "true" in (env.get("WANDB_DISABLED", "").lower(), settings.get("disabled", "").lower()):
        return None
    if env.get("WANDB_IDENTITY_TOKEN_FILE"):
        return None
    server = env.get("WANDB_BASE_URL") or settings.get("base_url") or _CLOUD
    places = (
        ("WANDB_API_KEY", env.get("WANDB_API_KEY")), ("the netrc file", _netrc(env, home, urlsplit(server).netloc)),
        ("W&B's settings", settings.get("api_key")),
    )  # fmt: skip
    for place, key in places:
        if key:
            return None if _like_a_key(key) else f"a key in {place} that is none of its own, which have 40 characters or more: {_ADVICE}"
    return f"no key for {server}: {_ADVICE}"


def _settings(file: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
        return dict(parser["default"]) if parser.has_section("default") else {}
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}


def _netrc(env: Mapping[str, str], home: Path, host: str) -> str | None:
    files = [Path(env["NETRC"]).expanduser()] if env.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for file in files:
        try:
            found = netrc.netrc(file).authenticators(host)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        return found[2] if found else None
    return None


def _like_a_key(key: str) -> bool:
    """Forty characters or more, of a server of one's own behind a prefix, or a token of three parts."""
    return bool(re.fullmatch(r"([\w-]+\.){2}[\w-]+|([^-]*-)?[\w-]{40,}", key))
