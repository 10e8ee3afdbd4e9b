"""Golden files: what the compiler made of a graph when somebody last looked at it and agreed.

UPDATE_GOLDEN=1 pytest tests/compiler     # writes them anew; then read the diff
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).with_name("golden")


def check_golden(name: str, text: str) -> None:
    """Fail unless `text` is what golden/`name`.txt holds."""
    path = FOLDER / f"{name}.txt"
    text = text.rstrip() + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing: UPDATE_GOLDEN=1 pytest {path.parent.parent}"
    assert text == path.read_text(), f"{path.name} differs: UPDATE_GOLDEN=1 pytest accepts it"
