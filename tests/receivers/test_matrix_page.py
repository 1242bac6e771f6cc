from pathlib import Path

import pytest

from eventbus.tracking import TRACKING_EVENTS
from receivers.matrix import KINDS, MATRIX, Kind, make_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_has_a_cell(kind: Kind) -> None:
    assert list(MATRIX[kind]) == list(TRACKING_EVENTS)
    assert all(cell.words for cell in MATRIX[kind].values())


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "python -m receivers.matrix > docs/matrix.md"
