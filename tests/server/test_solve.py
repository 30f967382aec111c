"""`POST /v1/solve`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Running, running, scripted

from codellama.sandbox import Sandbox, SandboxUnavailable
from fakes import ByteTokenizer, ScriptedModel

TOKENIZER = ByteTokenizer()
REPLY = TOKENIZER.encode_bare("w * h")


def script(tokens: tuple[int, ...]) -> int | None:
    """After an infilling prompt it writes the product; after others, noise."""
    if TOKENIZER.middle_id not in tokens:
        return None
    written = tokens[tokens.index(TOKENIZER.middle_id) + 1 :]
    return REPLY[len(written)] if len(written) < len(REPLY) else TOKENIZER.eot_id


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    try:
        Sandbox.open(n_workers=1).close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with running(scripted(ScriptedModel(n_blocks=512, script=script))) as found:
        yield found


ASKED = {"prefix": "def area(w, h):\n    return ", "suffix": "\n", "n": 4, "max_tokens": 20}


def test_an_answer_that_passed(server: Running) -> None:
    got = server.post("/v1/solve", ASKED | {"tests": "assert area(2, 3) == 6"})
    assert got.status == 200
    assert got.json["verified"] is True
    assert got.json["source"] == "def area(w, h):\n    return w * h\n"
    assert "+    return w * h" in got.json["diff"]
    assert (got.json["n_tried"], got.json["n_drawn"], got.json["n_same"]) == (1, 4, 3)


def test_none_passes(server: Running) -> None:
    got = server.post("/v1/solve", ASKED | {"tests": "assert area(2, 3) == 5"}).json
    assert got["verified"] is False
    assert got["source"] is None
    assert "assertion failed" in got["reason"]


def test_without_tests_it_says_so(server: Running) -> None:
    got = server.post("/v1/solve", ASKED).json
    assert got["verified"] is False
    assert got["source"] is not None
    assert got["agreement"] == 1
    assert "unverified" in got["reason"]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"task": "a", "prefix": "b"}, ASKED | {"n": 0}, ASKED | {"n": 201}, ASKED | {"tests": 5}],
)
def test_what_makes_no_sense(server: Running, wrong: dict[str, object]) -> None:
    assert server.post("/v1/solve", wrong).status == 400


def test_no_isolation_no_run(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> Sandbox:
        raise SandboxUnavailable(("user namespaces",))

    monkeypatch.setattr(Sandbox, "open", refuse)
    got = server.post("/v1/solve", ASKED)
    assert got.status == 503
    assert "user namespaces" in str(got.json)
