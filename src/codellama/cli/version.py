"""Which version of this package runs."""

from __future__ import annotations


def package_version(absent: str = "0") -> str:
    """As it was installed; `absent` where the sources run without having been."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version("codellama")
    except PackageNotFoundError:
        return absent
