"""What the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Platform


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as platform:
        yield platform
