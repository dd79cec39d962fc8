"""Progress: on a terminal; quiet elsewhere unless asked; in a file while the book is built."""

import io
import subprocess
import sys

import pytest

from pi_lib import progress
from pi_lib.progress import bar, building_book, clock, quiet, show, track, wanted


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(progress.VARIABLE, raising=False)


def on_a_terminal(monkeypatch):
    """Called within a test, for pytest puts its own stream back after a fixture."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def test_on_a_terminal_one_line_updates_itself(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    for _ in track(range(3), "samples"):
        pass
    text = terminal.getvalue()
    assert "samples:   0%" in text and "3/3" in text
    assert text.count("\n") == 1 and text.endswith("\n")


def test_messages_stand_above_the_line(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    with bar("steps", 2) as shown:
        shown.update()
        show("halfway")
        shown.update()
    assert "\r\x1b[Khalfway\n" in terminal.getvalue()


def test_a_log_has_one_line_and_only_where_it_is_asked_for(capsys, monkeypatch):
    def logged(**options):
        assert list(track("abc", "letters", **options)) == ["a", "b", "c"]
        return capsys.readouterr().err

    assert logged() == ""
    assert logged(verbose=True) == "letters 3/3  00:00\n"
    monkeypatch.setenv(progress.VARIABLE, "1")
    assert logged() == "letters 3/3  00:00\n" and logged(verbose=False) == ""
    with quiet():
        assert logged() == logged(verbose=True) == ""
    assert wanted()
    monkeypatch.setenv(progress.VARIABLE, "0")
    assert logged() == "" and logged(verbose=True)
    show("a message")
    assert capsys.readouterr().err == "a message\n"


def test_quiet_on_a_terminal_too(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv(progress.VARIABLE, "0")
    list(track("abc", "letters"))
    monkeypatch.delenv(progress.VARIABLE)
    list(track("abc", "letters", verbose=False))
    assert terminal.getvalue() == ""


def test_while_the_book_is_built_lines_go_to_the_file_alone(tmp_path, monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    lines = tmp_path / "lines"
    lines.write_text("cell 2/9\n")
    monkeypatch.setenv(progress.VARIABLE, str(lines))
    assert building_book()
    with bar("fine-tune", 50, initial=20) as shown:
        assert lines.read_text().splitlines() == ["cell 2/9", "fine-tune 20/50"]
        shown.update(30)
    assert lines.read_text().splitlines()[-1] == "fine-tune 50/50"
    list(track(iter("ab"), "letters"))  # of unknown number
    assert lines.read_text().splitlines()[-1] == "letters 2"
    assert terminal.getvalue() == ""


def test_in_jupyter_it_is_text_and_no_widget(monkeypatch):
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    list(track(range(2), "samples"))
    assert "2/2" in stream.getvalue()
    code = (
        "import sys; from pi_lib.progress import track; list(track('ab', 'x', verbose=True)); "
        "assert not {'ipywidgets', 'tqdm.notebook'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_goes_wrong_within_is_raised(capsys):
    with pytest.raises(KeyError, match="b"):
        for letter in track("abc", "letters", verbose=True):
            if letter == "b":
                raise KeyError(letter)


def test_durations():
    assert [clock(x) for x in (0, 9.7, 75, 3671)] == ["0:00", "0:09", "1:15", "1:01:11"]
