"""Which files are opened, what they may be, and what happens when they change meanwhile."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checkpoints_tiny import tiny_weights, write_hf, write_json
from codellama import checkpoint
from codellama.checkpoint.files import Folder, check_base_name, open_file
from codellama.errors import CheckpointError, CodeLlamaError, OutOfMemory
from hostile import SMALLEST, Contents, contents, outcome, watch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "model", SMALLEST, tokenizer=False)


@pytest.fixture
def expected(folder: Path) -> Contents:
    return contents(folder)


def refusal(path: Path) -> str:
    error = outcome(path)
    assert isinstance(error, CheckpointError), "this should have been refused"
    return str(error)


# --- links


def snapshot(tmp_path: Path) -> Path:
    """The tiny folder as the Hugging Face cache keeps it."""
    repo = tmp_path / "hub" / "models--codellama--tiny"
    files = write_hf(tmp_path / "files", SMALLEST, n_shards=2, tokenizer=False)
    revision = repo / "snapshots" / "abc123"
    revision.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for i, file in enumerate(sorted(files.iterdir())):
        file.rename(repo / "blobs" / f"{i:064x}")
        (revision / file.name).symlink_to(Path("../../blobs") / f"{i:064x}")
    return revision


def test_a_hub_snapshot_is_read_through_its_links(tmp_path: Path, folder: Path) -> None:
    assert contents(snapshot(tmp_path)) == contents(folder)


def test_a_snapshot_s_link_out_of_its_repository_is_refused(tmp_path: Path) -> None:
    revision = snapshot(tmp_path)
    other = tmp_path / "hub" / "models--other" / "blobs" / "1"
    other.parent.mkdir(parents=True)
    config = revision / "config.json"
    other.write_bytes(config.read_bytes())
    config.unlink()
    config.symlink_to(other)
    assert "outside the model folder" in refusal(revision)


@pytest.mark.parametrize("level", [0, 1], ids=["snapshots", "models--..."])
def test_blobs_beside_a_folder_that_is_no_snapshot_are_outside(tmp_path: Path, level: int) -> None:
    revision = snapshot(tmp_path)
    level_up = revision.parents[level]
    renamed = level_up.rename(level_up.with_name("other"))
    assert "outside the model folder" in refusal(renamed / revision.relative_to(level_up))


def test_links_inside_the_folder_are_followed(folder: Path, expected: Contents) -> None:
    (folder / WEIGHTS).rename(folder / "real")
    (folder / "step").symlink_to("real")
    (folder / WEIGHTS).symlink_to(folder / "step")
    assert contents(folder) == expected


def test_the_path_a_user_gives_may_be_a_link(folder: Path, expected: Contents) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert contents(link) == expected
    assert checkpoint.open(link).path == link


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def listen(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 108 bytes only
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a link to a file outside": link_to("/etc/hosts"),
    "a link to a device": link_to("/dev/zero"),
    "a link to a terminal": link_to("/dev/tty"),
    "a link to this process": link_to("/proc/self/mem"),
    "a link upwards": link_to("../outside"),
    "a link to the folder above": link_to(".."),
    "a link to its own folder": link_to("."),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": link_to("nothing"),
    "a link through a file": link_to("README.md/x"),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to a FIFO": lambda path: (os.mkfifo(path.parent / "f"), path.symlink_to("f")),
    "a socket": listen,
}


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "generation_config.json"])
@pytest.mark.parametrize("what", NOT_FILES)
def test_only_regular_files_inside_are_opened(folder: Path, name: str, what: str) -> None:
    (folder / "README.md").write_text("x")
    (folder.parent / "outside").write_bytes((folder / "config.json").read_bytes())
    (folder / name).unlink(missing_ok=True)
    NOT_FILES[what](folder / name)
    with watch() as watched:
        text = refusal(folder)
    assert name in text
    assert_inside(watched.opened, folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
@pytest.mark.parametrize("what", NOT_FILES)
def test_the_tokenizer_is_no_way_out_either(tmp_path: Path, name: str, what: str) -> None:
    folder = write_hf(tmp_path / "model")
    (folder / "README.md").write_text("x")
    (folder / name).unlink(missing_ok=True)
    NOT_FILES[what](folder / name)
    reader = checkpoint.open(folder)
    with watch() as watched, pytest.raises(CheckpointError, match=name):
        reader.tokenizer()
    assert_inside(watched.opened, folder)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_in_the_folder_is_refused(folder: Path, kind: int) -> None:
    (folder / WEIGHTS).unlink()
    try:
        os.mknod(folder / WEIGHTS, 0o600 | kind, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device file")
    assert "not a regular file" in refusal(folder)


def test_a_file_that_becomes_a_fifo_does_not_block(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening anything may happen: the descriptor is looked at too."""
    real = Path.lstat

    def swap(path: Path) -> os.stat_result:
        found = real(path)
        if path.name == WEIGHTS and stat.S_ISREG(found.st_mode):
            path.unlink()
            os.mkfifo(path)
        return found

    opened = Folder(folder)
    monkeypatch.setattr(Path, "lstat", swap)
    with pytest.raises(CheckpointError, match="not a regular file"):
        opened.open(WEIGHTS)


# --- names


@pytest.mark.parametrize("name", ["a", "model.safetensors", "..a", "a b", "é", ".hidden", "-"])
def test_plain_names_are_plain(name: str) -> None:
    assert check_base_name(name, "x") == name


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/", "a\\b", "a\0", "\n", "\x7f"])
def test_a_folder_opens_plain_names_only(folder: Path, name: str) -> None:
    with watch() as watched, pytest.raises(CheckpointError, match="plain file name"):
        Folder(folder).open(name)
    assert watched.opened == []


def test_case_twins_are_different_files(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "Model.safetensors")
    if (folder / WEIGHTS).exists():
        pytest.skip("this file system does not tell cases apart")
    assert "holds neither" in refusal(folder)


# --- nothing else is opened, and nothing is run


def assert_inside(opened: list[str], folder: Path) -> None:
    outside = [p for p in opened if not Path(p).resolve().is_relative_to(folder.resolve())]
    assert outside == []


@pytest.mark.parametrize("n_shards", [1, 2])
def test_only_the_folder_s_files_are_opened(tmp_path: Path, n_shards: int) -> None:
    folder = write_hf(tmp_path / "model", SMALLEST, n_shards=n_shards, tokenizer=False)
    contents(folder)  # what our own code imports on first use is not the folder's doing
    for name in ("config.json", "modeling_llama.py", "sitecustomize.py", "pytorch_model.bin"):
        if not (folder / name).exists():
            (folder / name).write_text("raise SystemExit('ran')")
    write_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": "evil.T"}})
    with watch() as watched:
        found = contents(folder)
    assert len(found) == 12
    assert watched.others == []
    assert_inside(watched.opened, folder)
    weights = [f for f in watched.opened if f.endswith(".safetensors")]
    assert len(weights) == n_shards
    assert not [f for f in watched.opened if f.endswith((".py", ".bin"))]


def test_the_watch_sees(tmp_path: Path) -> None:
    """The other tests would pass with a blind one."""
    (tmp_path / "x.py").write_text("y = 1")
    with watch() as watched:
        exec(compile((tmp_path / "x.py").read_text(), "x", "exec"), {})
        socket.socket().close()
    assert str(tmp_path / "x.py") in watched.opened
    assert {event.split()[0] for event in watched.others} >= {"exec", "compile", "socket.__new__"}


def test_a_refusal_opens_nothing_outside(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    write_json(folder / INDEX, {"weight_map": {"model.norm.weight": "../../../etc/passwd"}})
    with watch() as watched:
        assert "plain file name" in refusal(folder)
    assert_inside(watched.opened, folder)


# --- files that change while they are open


def later(path: Path) -> None:
    """Moves the modification time on, as any write does once the clock has ticked."""
    now = path.stat()
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns + 1_000_000))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff" * 4)
    later(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[Path], object]] = {
    "shortened": lambda path: os.truncate(path, path.stat().st_size - 4),
    "emptied": lambda path: os.truncate(path, 0),
    "shortened and grown back": lambda path: (
        os.truncate(path, 0), os.truncate(path, 4096), later(path)
    ),
    "overwritten in place": overwrite,
    "appended to": append,
    "touched": later,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("n_before", [0, 1, 11])
def test_a_file_changed_in_place_is_an_error(folder: Path, change: str, n_before: int) -> None:
    stream = checkpoint.open(folder).tensors()
    before = [next(stream) for _ in range(n_before)]
    copies = [tensor.data.tobytes() for _, tensor in before]
    CHANGES[change](folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        next(stream)
    assert [tensor.data.tobytes() for _, tensor in before] == copies


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(b"\0" * path.stat().st_size)
    new.rename(path)


@pytest.mark.parametrize("change", [replace, Path.unlink], ids=["replaced", "removed"])
def test_a_file_replaced_by_name_is_still_the_old_one(
    folder: Path, expected: Contents, change: Callable[[Path], object]
) -> None:
    reader = checkpoint.open(folder)
    change(folder / WEIGHTS)
    found = {name: tensor.data.tobytes() for name, tensor in reader.tensors()}
    assert found == {name: data for name, (_, _, data) in expected.items()}


def test_a_file_emptied_after_loading_does_not_touch_the_tensors(tmp_path: Path) -> None:
    """A mapping would end the process here; big enough to cross many pages."""
    folder = write_hf(tmp_path / "model")
    tensors = dict(checkpoint.open(folder).tensors())
    os.truncate(folder / WEIGHTS, 0)
    for name, x in tiny_weights().items():
        assert np.array_equal(tensors[name].to_float32(), x)


def test_a_read_that_fails_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = checkpoint.open(folder)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
        next(reader.tensors())


def test_a_file_that_ends_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = checkpoint.open(folder)
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(CheckpointError, match="ends before byte"):
        next(reader.tensors())


def test_no_memory_for_a_tensor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = checkpoint.open(folder)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(OutOfMemory, match=r"model.safetensors: no memory for"):
        next(reader.tensors())


def test_what_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    opened = Folder(folder)
    monkeypatch.setattr(os, "open", refuse)
    for attempt in (lambda: opened.open(WEIGHTS), lambda: open_file(folder / WEIGHTS)):
        with pytest.raises(CheckpointError, match="cannot be opened: Permission denied"):
            attempt()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match="not a folder that can be read"):
        Folder(folder)


@pytest.mark.parametrize(
    ("path", "words"),
    [("absent", "no such file"), ("a\0b", "followed"), ("loop", "followed"), (".", "regular")],
)
def test_a_named_file_that_cannot_be_opened(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match=words):
        open_file(tmp_path / path)


def test_reads_that_come_in_pieces_are_joined(
    folder: Path, expected: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: real(fd, [views[0][:3]], offset))
    assert contents(folder) == expected


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (0, 6), (5, 1), (2**63, 1), (0, 2**64)])
def test_a_span_outside_the_file(tmp_path: Path, offset: int, count: int) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with open_file(tmp_path / "x") as file, pytest.raises(CheckpointError, match="the file has 5"):
        file.read(offset, count)


def test_descriptors_do_not_pile_up(folder: Path) -> None:
    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counting, one of them is its own

    contents(folder)
    before = n_open()
    for _ in range(20):
        contents(folder)
    shutil.rmtree(folder)
    for _ in range(20):
        with pytest.raises(CodeLlamaError):
            contents(folder)
    assert n_open() <= before
