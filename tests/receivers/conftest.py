"""What the tests of receivers share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
