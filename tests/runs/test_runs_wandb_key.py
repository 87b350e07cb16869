"""Where W&B's key is looked for, and what is said where there is none."""

import pytest

from erpo_verl.runs.wandb_key import problem

KEY = "0123456789" * 4


def found(folder, environment=None, **files):
    """``problem`` with a home of its own: files by name, ``netrc``, ``user`` (W&B's settings) and ``local`` (of the working folder)."""
    places = {"netrc": folder / ".netrc", "user": folder / ".config" / "wandb" / "settings", "local": folder / "work" / "wandb" / "settings"}
    for name, text in files.items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        places[name].write_text(text)
    return problem({"HOME": str(folder), **(environment or {})}, folder / "work")


def netrc(host="api.wandb.ai", key=KEY):
    return f"machine {host}\n  login user\n  password {key}\n"


@pytest.mark.parametrize(
    ("environment", "files"),
    [
        ({"WANDB_API_KEY": KEY}, {}), ({"WANDB_API_KEY": f"local-{KEY}"}, {}), ({"WANDB_API_KEY": "a.b-c.d_e"}, {}), ({}, {"netrc": netrc()}),
        ({"NETRC": "~/elsewhere", "WANDB_API_KEY": KEY}, {}), ({"WANDB_BASE_URL": "http://mine:8080"}, {"netrc": netrc("mine:8080")}),
        ({}, {"user": "[default]\nbase_url = https://wandb.mine.org\n", "netrc": netrc("wandb.mine.org")}),
        ({}, {"user": f"[default]\napi_key = {KEY}\n"}), ({}, {"local": "[default]\nmode = offline\n"}), ({}, {"user": "[default]\ndisabled = true\n"}),
        ({"WANDB_MODE": "offline"}, {}), ({"WANDB_MODE": "disabled"}, {}), ({"WANDB_MODE": "dryrun"}, {}), ({"WANDB_DISABLED": "true"}, {}),
        ({"WANDB_IDENTITY_TOKEN_FILE": "/a/token"}, {}),
    ],
)  # fmt: skip
def test_a_key_or_no_need_of_one(tmp_path, environment, files) -> None:
    assert found(tmp_path, environment, **files) is None


@pytest.mark.parametrize(
    ("environment", "files", "message"),
    [
        ({}, {}, r"no key for https://api\.wandb\.ai: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"),
        ({"WANDB_API_KEY": ""}, {}, "no key for"),
        ({"WANDB_MODE": "online"}, {"local": "[default]\nmode = offline\n"}, "no key for"),
        ({"WANDB_BASE_URL": "https://mine.org"}, {"netrc": netrc()}, r"no key for https://mine\.org"),
        ({"WANDB_API_KEY": "abc"}, {"netrc": netrc()}, "a key in WANDB_API_KEY that is none of its own, which have 40 characters"),
        ({}, {"netrc": netrc(key="short")}, "a key in the netrc file that is none"),
        ({}, {"netrc": "machine\n", "user": "no section"}, "no key for"),
    ],
)
def test_what_is_missing_is_said(tmp_path, environment, files, message) -> None:
    import re

    assert re.search(message, found(tmp_path, environment, **files))
