"""Ray Serve's router class over `ranking`. Imported by Ray alone, where Ray is."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import RequestRouter

from codellama.cluster.ranking import ranked


class PrefixRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types for mypy
    """Sends a request to the replicas in the order of its `route_key` argument's ranking."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Replicas in the order to ask; the next is asked where one does not accept."""
        key = b"" if pending_request is None else pending_request.kwargs.get("route_key", b"")
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[by_name[name]] for name in ranked(key, by_name)]
