"""Programs started here run as users run them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _usual_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without buffers of its own, Python would hide a missing flush.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
