import numpy as np
import pytest

from exportloss.cli.data_report import print_undrawable
from exportloss.runtime.drawing import fonts
from exportloss.runtime.drawing.draw import draw_boxes
from exportloss.runtime.drawing.fonts import drawable_names, font_for, font_path
from exportloss.runtime.drawing.plots import plot_curves
from tests.runtime.evaluation.test_metrics import accumulate, random_images

NAMES = ("T\u00fcr", "\u0434\u043e\u043c", "cat")
STRANGE = "\U000f1234\U000f1235"  # of a plane for private use


@pytest.fixture(autouse=True)
def forget():
    """Let every test look for fonts anew."""
    for cached in (fonts._fonts, fonts.font_path, fonts.font_for, fonts._letters):
        cached.cache_clear()


def shape(text):
    return bytes(font_for(text, 20).getmask(text))


def test_letters_are_drawn_as_themselves():
    assert drawable_names(NAMES) == NAMES
    shapes = [shape(letter) for letter in "\u00fc\u0434\u043e\u043c"]
    assert len(set(shapes)) == 4  # squares would all be the same


def test_ascii_needs_no_font_of_the_system(monkeypatch):
    monkeypatch.setattr(fonts, "_fonts", None)
    assert font_path("cat 0.93") is None
    assert shape("cat") != shape("dog")


def test_what_no_font_has_is_its_number_and_said_once(capsys):
    assert drawable_names(["cat", STRANGE]) == ("cat", "1")
    for _ in range(2):
        print_undrawable(("cat", STRANGE))
    print_undrawable(("cat",))
    assert capsys.readouterr().out.count("note:") == 1


def test_without_any_font_names_are_numbers(monkeypatch):
    monkeypatch.setattr(fonts, "_fonts", lambda: ())
    assert drawable_names(NAMES) == ("0", "1", "cat")


def test_images_and_plots_take_such_names(tmp_path, recwarn):
    grey = np.full((120, 160, 3), 128, np.uint8)
    boxes = np.array([[40, 50, 120, 100, 0.9, 1]], np.float32)
    drawn = draw_boxes(grey, boxes, NAMES, show_confidence=False)
    square = draw_boxes(grey, boxes, ("a", "b", "c"), show_confidence=False)
    assert (drawn != square).any()
    plot_curves(tmp_path, accumulate(random_images(0, 20, 3), 3), (*NAMES[:2], STRANGE))
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
