"""The JSON of model files, read as strictly as that of any stranger."""

from __future__ import annotations

from typing import Any

from codellama import strict_json
from codellama.errors import CheckpointError


def parse_object(data: bytes, where: str, *, max_depth: int = 32) -> dict[str, Any]:
    """The JSON object in `data`, whose size the caller has bounded; `where` is what messages say.

    Raises:
        CheckpointError: see `codellama.strict_json.parse_object`.
    """
    try:
        return strict_json.parse_object(data, max_depth=max_depth)
    except strict_json.JsonError as error:
        raise CheckpointError(f"{where}: {error}") from error
