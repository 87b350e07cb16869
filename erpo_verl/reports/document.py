"""Self-contained HTML: no network, no asset outside the file, and no text that could become markup."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from html import escape
from importlib import resources


def template(name: str) -> str:
    """A file of ``templates/``."""
    return (resources.files("erpo_verl.reports") / "templates" / name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Text for HTML: markup is escaped, characters that cannot be seen (control, direction, ...) are shown by their code points."""
    return escape("".join(_seen(c) for c in str(value)), quote=True)


def _seen(character: str) -> str:
    # Cc control, Cf format (direction marks among them), Cs lone surrogates, Co private, Cn unassigned, Zl and Zp separators.
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


def data(value: object) -> str:
    """JSON for a ``<script type=application/json>``: no ``<``, ``>`` or ``&``, so that nothing in it can end the element."""
    found = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def document(title: str, styles: Sequence[str], body: str, scripts: Sequence[str]) -> str:
    """A whole page. The policy in its head forbids every request, whatever the page holds."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>\n{''.join(styles)}</style>\n</head>\n<body>\n{body}\n"
        + "".join(f"<script>\n{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )
