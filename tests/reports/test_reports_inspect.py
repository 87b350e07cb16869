"""`erpo inspect`: which responses are shown, tokens as text, numbers of the page, hostile text, clear errors."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from reports_runs import HOSTILE, hostile_rollouts
from runs_rows import row

from erpo_verl import cli
from erpo_verl.reports.inspection import page
from erpo_verl.reports.pieces import is_byte_level, readable
from erpo_verl.reports.selection import parse_rows, select
from erpo_verl.runs.rollouts import RolloutsError, write_rollouts


class Page(HTMLParser):
    """Tags of a page, the words of its tokens, and the numbers it holds."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.inside = [], [], None
        self.feed(html)
        self.numbers = json.loads(re.search(r'id="numbers">(.*?)</script>', html, re.S)[1])

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.inside = attrs if tag == "span" and "data-i" in attrs else None
        if self.inside is not None:
            self.words.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is not None:
            self.words[-1] += data


# --- Tokens as text ---------------------------------------------------------------------------------------------------


def test_byte_level_pieces():
    pieces = ["Hello", "Ġworld", "Ċ", "ĉ", "âĪĳ", "â", "Īĳ", "Ã©", "<|im_end|>", "ðŁ", ""]
    assert is_byte_level(pieces)
    assert readable(pieces, True) == ["Hello", " world", "\n", "\t", "∑", "⟨E2⟩", "⟨88⟩⟨91⟩", "é", "<|im_end|>", "⟨F0 9F⟩", ""]


def test_every_byte_has_its_piece():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()  # byte -> character
    for text in ("naïve ∑ 漢字 🙂\n\t", bytes(range(128)).decode()):
        pieces = ["".join(table[byte] for byte in word.encode()) for word in text]
        assert "".join(readable(pieces, True)) == text


def test_sentencepiece_pieces():
    pieces = ["▁Hello", "▁▁x", "<0x0A>", "<0xE2>", "<0x0a>", "Ġ"]
    assert not is_byte_level(pieces)
    assert readable(pieces, False) == [" Hello", "  x", "\n", "⟨E2⟩", "\n", "Ġ"]


# --- Selection --------------------------------------------------------------------------------------------------------


def file_of_groups(path):
    """Prompt w: all wrong. m0, m1, m2: two right, four wrong."""
    rows = [row("w", i, right=False) for i in range(2)]
    rows += [row(f"m{u}", i, right=i in (1, 4)) for u in range(3) for i in range(6)]
    return write_rollouts(path, rows)


def test_default_is_the_first_mixed_groups(tmp_path):
    chosen = select(file_of_groups(tmp_path / "r.parquet"), groups=2, each=3)
    assert [(g.uid, [r["sample"] for r in g.rows], g.left_out) for g in chosen.groups] == [
        ("m0", [0, 1, 2, 3, 4], 1), ("m1", [0, 1, 2, 3, 4], 1),
    ]  # fmt: skip
    assert "The file holds 20 responses to 4 prompts; 3 of these have right and wrong ones." in chosen.notes


def test_rows_and_uids(tmp_path):
    path = file_of_groups(tmp_path / "r.parquet")
    assert [(g.uid, len(g.rows), g.left_out) for g in select(path, rows=[0, 3]).groups] == [("w", 1, 1), ("m0", 1, 5)]
    assert [(g.uid, len(g.rows)) for g in select(path, uids=["w"]).groups] == [("w", 2)]
    with pytest.raises(RolloutsError, match="no uid 'x'; the first are w, m0"):
        select(path, uids=["x"])
    with pytest.raises(RolloutsError, match="no row 20, it has 20"):
        select(path, rows=[20])
    assert parse_rows("0-2, 7,1") == [0, 1, 2, 7]
    for bad in ("", "a", "3-1", "-1", "1-"):
        with pytest.raises(RolloutsError, match="not rows such as"):
            parse_rows(bad)


def test_no_mixed_group(tmp_path):
    chosen = select(write_rollouts(tmp_path / "r.parquet", [row("w", 0, right=False)]))
    assert [g.uid for g in chosen.groups] == ["w"] and any("No prompt has right and wrong" in note for note in chosen.notes)


def test_a_page_has_a_limit_of_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr("erpo_verl.reports.selection.MAX_TOKENS", 5)
    chosen = select(file_of_groups(tmp_path / "r.parquet"))
    assert sum(r["length"] for g in chosen.groups for r in g.rows) <= 5
    assert any("left out: a page shows up to 5 tokens" in note for note in chosen.notes)


def test_top_fifth_is_of_the_whole_step(tmp_path):
    rows = [row("u", i, right=i == 0, tokens=["t"] * 50, z=[float(50 * i + k) for k in range(50)]) for i in range(2)]
    rows.append(row("u", 2, z=None))
    rows.append(row("v", 0, step=4, z=[9.0, float("nan")]))
    chosen = select(write_rollouts(tmp_path / "r.parquet", rows), rows=[0])
    assert chosen.top_z == {3: pytest.approx(np.quantile(np.arange(100), 0.8))}


# --- The page ---------------------------------------------------------------------------------------------------------


def test_page_holds_the_numbers(tmp_path):
    z = [-0.5, 0.5, 2.5, float("nan")]
    rows = [row("u", 0, tokens=["Ġa", "b", "Ċ", "d"], z=z, advantage=[0.1234567, -2.0, 0.0, 1e-9], gate=None), row("u", 1, right=False, tokens=["x"], z=[-1.0], gate=None)]
    html = page("name", select(write_rollouts(tmp_path / "r.parquet", rows)))
    found = Page(html)
    assert found.words == [" a", "b", "⏎\n", "d", "x"]
    kinds = [attrs.get("data-kind", "") for tag, attrs in found.tags if tag == "span" and "data-i" in attrs]
    assert kinds == ["", "pivot", "pivot top", "", ""]  # 0.8 quantile of (-1, -.5, .5, 2.5) is 1.3
    right, wrong = found.numbers["responses"]
    assert right["advantage"] == [0.123457, -2.0, 0.0, 1e-9] and right["z"] == [-0.5, 0.5, 2.5, None] and "gate" not in right
    assert wrong["token_ids"] == [0]
    assert "gate" not in found.numbers["modes"] and set(found.numbers["modes"]) == {"advantage", "entropy", "z", "progress_normalised"}
    assert "outcome advantage <b>1</b>" in html and "outcome advantage <b>-1</b>" in html


def test_validation_responses_without_numbers(tmp_path):
    none = dict.fromkeys(("entropy", "z", "gate", "progress", "progress_normalised", "advantage", "old_log_prob", "ref_log_prob", "bucket"))
    html = page("name", select(write_rollouts(tmp_path / "r.parquet", [row(**none, outcome_advantage=None)])))
    assert Page(html).numbers["modes"] == {} and "the file holds no z" in html


def test_hostile_text_stays_text(tmp_path):
    html = page("</title><script>x</script>", select(hostile_rollouts(tmp_path / "r.parquet")))
    found = Page(html)
    assert not any(tag in ("img", "svg") or any(key.startswith("on") for key in attrs) for tag, attrs in found.tags)
    assert sum(tag == "script" for tag, _ in found.tags) == 2
    assert not any(character in html for character in "\u202e\u2066\x00\x07\x1b")
    expected = ["</script><script>window.broken = 1</script>", "<img src=x onerror='window.broken=2'>", "⟨U+202E⟩evil⟨U+2066⟩"]
    assert found.words[:3] == expected
    assert found.words[4:7] == ["⏎\n⏎\n", " word", "&lt;"] and found.words[len(HOSTILE) - 1] == "∅"


def test_command_writes_the_same_page_twice(tmp_path, capsys):
    path = file_of_groups(tmp_path / "r.parquet")
    assert cli.main(["inspect", str(path)]) == 0
    assert "3 of these have right and wrong ones" in capsys.readouterr().out
    assert cli.main(["inspect", str(path), "--out", str(tmp_path / "deep" / "two.html")]) == 0
    assert (tmp_path / "r.html").read_bytes() == (tmp_path / "deep" / "two.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["--rows", "99"], "no row 99"), (["--rows", "0", "--uid", "w"], "exclude"), (["--groups", "0"], "at least 1")]
)
def test_bad_calls(tmp_path, capsys, arguments, expected):
    path = file_of_groups(tmp_path / "r.parquet")
    assert cli.main(["inspect", str(path), *arguments]) == 1
    assert expected in capsys.readouterr().err and not (tmp_path / "r.html").exists()


def test_empty_file(tmp_path, capsys):
    path = write_rollouts(tmp_path / "r.parquet", [])
    assert cli.main(["inspect", str(path)]) == 1
    assert "holds no responses" in capsys.readouterr().err
