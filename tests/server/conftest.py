"""One server over nano for all tests that change nothing about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Running, nano, running


@pytest.fixture(scope="session")
def live() -> Iterator[Running]:
    """nano behind the default settings."""
    with running(("codellama-nano", nano())) as found:
        yield found
