"""The licence gate: which distributions may enter the corpus.

A wheel states its licence in up to three places; the most exact one decides: `License-Expression`
(SPDX, PEP 639), else the classifiers, else the free text of `License`. Whatever cannot be read as
an allowed licence is refused.
"""

from __future__ import annotations

import re
from email.message import Message

ALLOWED = frozenset(
    {"MIT", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "Python-2.0"}
    | {"ISC", "Zlib", "HPND", "PostgreSQL", "Unlicense", "CC0-1.0", "0BSD", "BSL-1.0"}
)

_CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "zlib/libpng License": "Zlib",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "The Unlicense (Unlicense)": "Unlicense",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
}

_FREE_TEXT = {
    "mit": "MIT",
    "mit license": "MIT",
    "bsd": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
}

_FOREIGN = re.compile(
    r"GNU\s+(?:Lesser\s+|Library\s+|Affero\s+)?General\s+Public|\bA?L?GPL\b|Mozilla\s+Public"
    r"|Eclipse\s+Public|\bMPL[- ]?[12]|non-?commercial|All\s+rights\s+reserved\s+by",
    re.IGNORECASE,
)


def licence_of(metadata: Message) -> tuple[str | None, str]:
    """The allowed SPDX expression of a wheel's METADATA, or None; and what it was read from."""
    expression = metadata.get("License-Expression")
    if expression:
        parts = re.split(r"\s+(?:AND|OR)\s+|[()\s]+", str(expression).strip())
        named = [part for part in parts if part]
        allowed = bool(named) and all(part in ALLOWED for part in named)
        return (str(expression) if allowed else None), f"License-Expression: {expression}"
    classifiers = [
        str(line).rsplit("::", 1)[-1].strip()
        for line in metadata.get_all("Classifier", [])
        if str(line).startswith("License ::")
    ]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    if classifiers:
        found = [_CLASSIFIERS.get(name) for name in classifiers]
        spdx = " AND ".join(dict.fromkeys(name for name in found if name))
        return (spdx if all(found) else None), f"Classifier: {'; '.join(classifiers)}"
    text = str(metadata.get("License") or "").strip()
    return _FREE_TEXT.get(text.lower()), f"License: {text[:60]!r}"


def names_foreign_licence(head: str) -> bool:
    """Whether the head of a file speaks of a licence that may not enter the corpus."""
    return _FOREIGN.search(head) is not None
