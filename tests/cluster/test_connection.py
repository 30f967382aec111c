"""What processes ask of a cluster, and what it has: without Ray, and without a GPU."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from codellama.cluster.connection import everywhere, has_gpus, require
from codellama.cluster.engines import for_others, needed
from codellama.errors import ConfigError
from codellama.server.settings import Settings
from train_corpus import RECIPES


class Cluster:
    """As the module `ray`, of machines with so many cores and GPUs."""

    def __init__(self, *machines: tuple[float, float]) -> None:
        self._machines = machines

    def nodes(self) -> list[dict[str, Any]]:
        found = [
            {"Alive": True, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}
            for cpus, gpus in self._machines
        ]
        return [*found, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    def cluster_resources(self) -> dict[str, float]:
        gpus = sum(gpus for _, gpus in self._machines)
        return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


def test_processes_that_never_find_room_are_refused() -> None:
    two = Cluster((8.0, 2.0), (4.0, 0.0))
    require(two, "--workers", 12, cpus=1)
    require(two, "--workers", 3, cpus=4)
    require(two, "--workers", 2, cpus=1, gpus=1)
    require(two, "--workers", 1, cpus=1, gpus=2)
    for n, each in (
        (13, {"cpus": 1}),
        (3, {"cpus": 5}),  # twelve cores, but no machine has three times five
        (3, {"cpus": 1, "gpus": 1}),
        (1, {"cpus": 1, "gpus": 4}),
    ):
        with pytest.raises(ConfigError, match="has room for"):
            require(two, "--workers", n, **each)
    with pytest.raises(ConfigError) as refusal:
        require(two, "--workers", 3, cpus=1, gpus=1)
    assert str(refusal.value) == (
        "--workers 3: each needs 1 core and 1 GPU, and the cluster has room for 2: its machines "
        "lend 8 cores and 2 GPUs, 4 cores and 0 GPUs"
    )
    assert has_gpus(two)
    assert not has_gpus(Cluster((8.0, 0.0)))


def test_what_an_engine_needs() -> None:
    vllm = Settings(engine="vllm", tensor_parallel=4, pipeline_parallel=2)
    assert needed(vllm, gpus_are_lent=True) == (1, 8)
    assert needed(vllm, gpus_are_lent=False) == (1, 0)
    assert needed(Settings(threads=3), gpus_are_lent=True) == (3, 0)
    assert needed(Settings(engine="torch", device="cuda"), gpus_are_lent=True) == (1, 1)
    assert needed(Settings(engine="torch"), gpus_are_lent=True) == (1, 0)


def test_paths_are_whole_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()
    assert everywhere("m.gguf") == str(tmp_path / "m.gguf")
    assert everywhere("nano") == "nano"
    assert everywhere("codellama/CodeLlama-7b-hf") == "codellama/CodeLlama-7b-hf"
    found = for_others(Settings(models={"a": "m.gguf"}, replicas=4, min_replicas=2))
    assert found.models == {"a": str(tmp_path / "m.gguf")}
    assert (found.replicas, found.min_replicas) == (1, None)


class Trainer:
    """As Ray Train's: keeps what it was told, and says that a signal came."""

    told: dict[str, Any]

    def __init__(self, worker: Any, **keywords: Any) -> None:
        Trainer.told = keywords

    def fit(self) -> Any:
        return SimpleNamespace(return_value=130)


def _work(args: Namespace) -> int:
    return 0


@pytest.mark.parametrize(
    ("device", "machine", "expected", "backend"),
    [
        ("cpu", (8.0, 0.0), {"CPU": 2}, "gloo"),
        ("cpu", (8.0, 8.0), {"CPU": 2}, "gloo"),
        ("cuda", (8.0, 4.0), {"CPU": 2, "GPU": 1}, "cpu:gloo,cuda:nccl"),
    ],
)
def test_training_gets_the_devices_of_its_recipe(
    device: str,
    machine: tuple[float, float],
    expected: dict[str, int],
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch")
    from codellama.cluster.train import on_cluster
    from codellama.train.recipe import Recipe

    train, torch = ModuleType("ray.train"), ModuleType("ray.train.torch")
    for name in ("ScalingConfig", "RunConfig", "FailureConfig"):
        setattr(train, name, SimpleNamespace)
    torch.TorchConfig, torch.TorchTrainer = SimpleNamespace, Trainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.train", train)
    monkeypatch.setitem(sys.modules, "ray.train.torch", torch)
    monkeypatch.setattr("codellama.cluster.train.connect", lambda: Cluster(machine))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    recipe = Recipe.read(RECIPES / "micro" / "micro.toml", ("n_threads=2", f'device="{device}"'))
    args = Namespace(out=Path("run"), corpus=None, start="weights")
    assert on_cluster(_work, args, recipe, 4) == 130
    scaling = Trainer.told["scaling_config"]
    assert scaling.num_workers == 4
    assert scaling.use_gpu == ("GPU" in expected)
    assert scaling.resources_per_worker == expected
    assert Trainer.told["torch_config"].backend == backend
    assert Trainer.told["torch_config"].timeout_s == recipe.patience_s
    whole = Trainer.told["train_loop_config"]["args"]
    assert (whole.out, whole.start) == (tmp_path / "run", str(tmp_path / "weights"))
    assert whole.corpus.is_absolute()
    with pytest.raises(ConfigError, match="--workers 5: each needs 2 cores"):
        on_cluster(_work, args, recipe, 5)
