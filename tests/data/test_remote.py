"""Files behind URLs: read in pieces, and again where that failed."""

import numpy as np
import pytest

from speechllm.data import remote
from speechllm.data.remote import Location
from speechllm.errors import UserError
from tests.loopback_store import served

CONTENT = np.random.default_rng(0).bytes(100_000)


@pytest.fixture
def store(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "shard.tar").write_bytes(CONTENT)
    monkeypatch.setattr(remote, "PIECE_BYTES", 30_000)
    with served(tmp_path) as store:
        yield store


def location(store, **options):
    return Location(f"{store.url}/folder/", **({"wait_s": 0.001, "tries": 4} | options))


@pytest.mark.loopback
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_comes_in_pieces(store, ranges):
    store.ranges = ranges
    assert location(store).size("shard.tar") == 100_000
    assert location(store).read("shard.tar") == CONTENT
    assert location(store).read("shard.tar", 29_990, 60_010) == CONTENT[29_990:60_010]
    assert not location(store).is_local


@pytest.mark.loopback
@pytest.mark.parametrize("failure", ["503", "cut", "drop", "short"])
def test_a_piece_that_fails_is_asked_for_again_and_no_other(store, failure, caplog):
    place = location(store)
    place.size("shard.tar")
    store.requests.clear()
    store.failures = [None, failure, failure]
    assert place.read("shard.tar", 0, 100_000) == CONTENT
    starts = [wanted for method, _, wanted in store.requests if method == "GET"]
    assert starts.count("bytes=0-29999") == 1
    assert starts.count("bytes=30000-59999") >= 2
    assert "try 2 of 4" in caplog.text
    assert "shard.tar" in caplog.text


@pytest.mark.loopback
def test_a_server_that_goes_on_failing_ends_with_the_last_error(store):
    store.failures = ["503"] * 50
    with pytest.raises(UserError, match=r"folder/shard.tar' could not be read in 3 tries. The last error: .*503"):
        location(store, tries=3).read("shard.tar", 0, 10)


@pytest.mark.loopback
def test_what_is_gone_is_not_waited_for(store):
    place = location(store, wait_s=60.0)
    for name in ("gone.tar", "../elsewhere.tar"):
        with pytest.raises(UserError, match=r"is not there"):
            place.read(name, 0, 10)
    assert place.read_if_there("gone.json") == b""


def test_folders_are_locations_too(tmp_path):
    place = Location(str(tmp_path / "a"))
    place.write("b/c.bin", CONTENT)
    assert place.is_local
    assert place.read("b/c.bin", 5, 9) == CONTENT[5:9]
    assert place.read_if_there("b/c.bin") == CONTENT
    with pytest.raises(UserError, match="is not there"):
        place.size("b/d.bin")


def test_unknown_protocols():
    with pytest.raises(UserError, match="cannot be reached"):
        Location("gopherx://host/folder")
