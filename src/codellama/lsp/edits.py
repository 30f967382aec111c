"""The regions of files that were edited last."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_AROUND = 4  # lines above and below an edit that belong to its region
_LINES = 24  # a region is no longer than this


@dataclass(frozen=True, kw_only=True)
class Region:
    """Lines `first` to `last` of a document, counted from 0 and inclusive."""

    document: str
    first: int
    last: int


class RecentEdits:
    """Where the user changed something lately; edits near each other are one region."""

    def __init__(self, size: int = 12) -> None:
        self._regions: deque[Region] = deque(maxlen=size)

    def note(self, document: str, line: int, n_removed: int, n_added: int) -> None:
        """An edit that began at `line` and put `n_added` line ends in place of `n_removed`."""
        shift = n_added - n_removed
        kept = []
        first, last = max(0, line - _AROUND), line + n_added + _AROUND
        for region in self._regions:
            if region.document == document and region.first > line + n_removed:
                region = Region(
                    document=document, first=region.first + shift, last=region.last + shift
                )
            if region.document == document and region.first <= last and first <= region.last:
                first, last = min(first, region.first), max(last, region.last)
                continue
            kept.append(region)
        if last - first >= _LINES:  # what was edited now is at its middle
            first = max(0, line - _LINES // 2)
            last = first + _LINES - 1
        self._regions.clear()
        self._regions.extend([*kept, Region(document=document, first=first, last=last)])

    def latest(self) -> list[Region]:
        """The regions, the latest first."""
        return list(reversed(self._regions))

    def forget(self, document: str) -> None:
        kept = [region for region in self._regions if region.document != document]
        self._regions.clear()
        self._regions.extend(kept)
