"""What a user may call a model, and what is said when there is no such model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints_tiny import write_hf
from codellama import CheckpointError, checkpoint
from codellama.checkpoint import hub
from codellama.checkpoint.hub import resolve

CLOSED = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    from huggingface_hub import constants

    path = tmp_path / "hub"
    path.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    return path


def put_in_cache(cache: Path, name: str, *, n_shards: int = 1) -> Path:
    """A model as the hub's library keeps one: links from a snapshot to blobs."""
    entry = cache / ("models--" + name.replace("/", "--"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = entry / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    (entry / "blobs").mkdir()
    for i, file in enumerate(sorted(write_hf(cache / "made", n_shards=n_shards).iterdir())):
        file.rename(entry / "blobs" / f"blob{i}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{i}")
    return snapshot


def refused(model: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        resolve(model)
    assert "\n" not in str(caught.value)
    return caught.value


def test_nano_comes_with_the_package() -> None:
    path = resolve("nano")
    assert checkpoint.open(path).config.vocab_size > 0
    assert (path.name, path.parent.name) == ("nano", "codellama")


def test_a_missing_nano_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "_PACKAGE", tmp_path)
    assert "nano is missing from this installation" in str(refused("nano"))


@pytest.mark.parametrize("shape", ["models/tiny", "tiny", "org/tiny", "tiny.gguf"])
def test_what_exists_is_taken_as_it_is(shape: str) -> None:
    path = Path(shape)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
    assert resolve(shape) == path
    assert resolve(path) == path
    assert resolve(str(path.absolute())) == path.absolute()


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/models/x") == tmp_path / "models/x"
    assert resolve(Path("~/models/x")) == tmp_path / "models/x"
    assert resolve("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


@pytest.mark.parametrize(
    "path", ["./x", "/no/where", "a/b/c", "x.gguf", "org/x.gguf", "org/", "../x/y", ".", "a\\b"]
)
def test_a_path_that_leads_nowhere_is_left_to_open(path: str) -> None:
    assert resolve(path) == Path(path)


@pytest.mark.parametrize("path", ["./x", "/no/where", "a/b/c", "x.gguf"])
def test_open_says_that_it_leads_nowhere(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        checkpoint.open(resolve(path))


def test_a_name_nobody_has_is_said_with_what_could_be_meant() -> None:
    Path("mymodel").mkdir()
    assert refused("mymodl").hint == "did you mean mymodel?"
    assert refused("nanno").hint == "did you mean nano?"
    assert refused("CodeLlama-7b").hint == "did you mean codellama/CodeLlama-7b-hf?"
    assert "nano, a model folder, a .gguf file, or a hub name" in str(refused("qqq").hint)
    for odd in ("", "a b", "x" * 5000, "org/na me", "org/..", "a--b/c", "\0", "org/x\n", "é/x"):
        assert "there is no model called" in str(refused(odd))


def test_a_near_miss_of_a_local_folder_does_not_ask_the_hub(cache: Path) -> None:
    Path("models/CodeLlama-7b").mkdir(parents=True)
    assert refused("models/CodeLama-7b").hint == "did you mean models/CodeLlama-7b?"


def test_a_cached_model_is_found_without_a_network(cache: Path) -> None:
    snapshot = put_in_cache(cache, "org/tiny")
    assert resolve("org/tiny") == snapshot
    assert checkpoint.open(resolve("org/tiny")).config.dim == 64


@pytest.mark.parametrize(
    ("n_shards", "lost"),
    [(1, "model.safetensors"), (1, "config.json"), (1, "tokenizer.model"),
     (3, "model-00002-of-00003.safetensors")],
)  # fmt: skip
def test_half_a_cached_model_is_none(cache: Path, n_shards: int, lost: str) -> None:
    snapshot = put_in_cache(cache, "org/tiny", n_shards=n_shards)
    assert resolve("org/tiny") == snapshot
    (snapshot / lost).resolve().unlink()
    error = refused("org/tiny")
    assert f"neither the local cache nor the hub has all of it: {lost} is missing" in str(error)
    assert "offline" in str(error.hint)


def test_a_damaged_index_is_left_to_the_reader(cache: Path) -> None:
    snapshot = put_in_cache(cache, "org/tiny", n_shards=2)
    for text in ("{", "[]", json.dumps({"weight_map": 3}), json.dumps({"weight_map": {"a": []}})):
        (snapshot / "model.safetensors.index.json").resolve().write_text(text)
        assert resolve("org/tiny") == snapshot
        with pytest.raises(CheckpointError):
            checkpoint.open(snapshot)


def test_a_hub_out_of_reach_is_said_in_one_sentence(cache: Path) -> None:
    error = refused("org/tiny")
    assert str(error).startswith("org/tiny: the local cache does not have it")
    assert "the hub cannot be reached: [Errno 111]" in str(error)
    assert "nano, a model folder or a .gguf file" in str(error.hint)


def test_a_process_without_a_network_ends_soon_and_clearly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", "complete", "x", "--model", "org/tiny"],
        env={"HF_HOME": str(tmp_path), "HF_ENDPOINT": CLOSED, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "the hub cannot be reached" in done.stderr


class FakeHub:
    """What `snapshot_download` of the hub's library would do: find nothing, then fetch or fail."""

    def __init__(self, result: Path | Exception) -> None:
        self.result = result
        self.asked: list[dict[str, object]] = []

    def __call__(self, name: str, **options: object) -> str:
        self.asked.append(options)
        if options.get("local_files_only"):
            raise OSError("not cached")
        if isinstance(self.result, Exception):
            raise self.result
        return str(self.result)


def fake_hub(monkeypatch: pytest.MonkeyPatch, result: Path | Exception) -> FakeHub:
    import huggingface_hub

    fake = FakeHub(result)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    return fake


def test_only_what_is_needed_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "fetched")
    fake = fake_hub(monkeypatch, folder)
    assert resolve("org/tiny") == folder
    first, second = fake.asked
    assert first["local_files_only"] is True
    assert second["allow_patterns"] == ["*.safetensors", "*.json", "tokenizer.model"]
    assert second["ignore_patterns"] == ["*/*"]


def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from unittest.mock import Mock

    from huggingface_hub import errors

    answer = Mock()
    for error, said in (
        (errors.GatedRepoError("no", response=answer), "accepted its licence"),
        (errors.RepositoryNotFoundError("no", response=answer), "has no such model"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(""), "ValueError"),
    ):
        fake_hub(monkeypatch, error)
        assert said in str(refused("org/tiny"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.Q4_0.gguf").touch()
    fake_hub(monkeypatch, tmp_path / "empty")
    error = refused("org/tiny")
    assert "there is model.Q4_0.gguf" in str(error)
    assert ".gguf" in str(error.hint)
