"""What the pages say of the code is so: the picture of the rooms, files that are named, lists of what to touch."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    spec = importlib.util.spec_from_file_location("draw_rooms", DOCS / "draw_rooms.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    same = drawing.draw() == drawing.PICTURE.read_text(encoding="utf-8")
    assert same, "The rooms or their imports have changed. Draw them again: python docs/draw_rooms.py"
