"""What is printed of paths, ids and captions: as it is, whatever it holds."""

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

import mmts
from mmts.console import console, errors, progress_bar

HOSTILE = "run [v2] [/x] [red]a[/red] :smile:"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(console, "_file", file)
    return file


def test_a_line_is_never_markup(printed: io.StringIO):
    console.print(HOSTILE)
    assert printed.getvalue() == HOSTILE + "\n"


def test_cells_titles_and_captions_of_tables_are_never_markup(printed: io.StringIO):
    table = Table(title="[t1]", caption="[/c1]")
    table.add_column("[h1]")
    table.add_row(HOSTILE)
    console.print(table)
    assert all(text in printed.getvalue() for text in ("[t1]", "[/c1]", "[h1]", HOSTILE))


def test_titles_and_notes_of_bars_are_never_markup(monkeypatch: pytest.MonkeyPatch):
    file = io.StringIO()
    monkeypatch.setattr(errors, "_file", file)
    monkeypatch.setattr(errors, "_force_terminal", True)
    monkeypatch.setattr(errors, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("[/x] training", 2) as bar:
        bar.describe("[/y] loss")
        bar.advance()
    assert "[/x] training" in file.getvalue()
    assert "[/y] loss" in file.getvalue()


def test_text_that_could_steer_the_terminal_is_replaced(printed: io.StringIO):
    console.print("a\x1b]0;title\x07b \udcff c\td\r\ne")
    assert printed.getvalue() == "a\ufffd]0;titleb \ufffd c  d\ne\n"


def test_spaces_of_any_width_and_joiners_stay(printed: io.StringIO):
    text = "Screenshot 3.04\u202fPM.png \u00a0 \u3000 \u0645\u06cc\u200c\u062e\u0648 \U0001f469\u200d\U0001f467"
    console.print(text)
    assert printed.getvalue() == text + "\n"


def test_everything_is_printed_through_these_two_consoles():
    """No other Console, no bare print (but of JSON), no markup: what would bring the faults back."""
    for file in Path(mmts.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = [ast.unparse(call.func) for call in calls]
        markup = [each for call in calls for each in call.keywords if each.arg == "markup"]
        assert "Text.from_markup" not in names, file
        if file.name != "console.py":
            assert not markup, file
            assert {"Console", "print"}.isdisjoint(names), file
