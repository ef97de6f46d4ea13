"""Processes that watch each other, here as threads of none: each end is polled by hand."""

import socket
import threading
import time

import pytest

from speechllm.models.watching.peers import Alone, Hub, Spoke, connect

pytestmark = pytest.mark.loopback


@pytest.fixture
def three():
    """Return the first process and two others, which it knows."""
    hub = Hub("127.0.0.1")
    spokes = [Spoke(rank, "127.0.0.1", hub.port, hub.token, ("node0", 4711)) for rank in (1, 2)]
    until(lambda: hub.poll(0.05), lambda: len(hub.known()) == 3)
    yield hub, *spokes
    for each in (hub, *spokes):
        each._close()


def until(poll, condition=None):
    """Poll until a condition holds, or until there is a departure; return the departures."""
    found, deadline = [], time.monotonic() + 10
    while time.monotonic() < deadline:
        found += poll()
        if condition() if condition else found:
            return found
    pytest.fail("nothing was heard in time")


def test_the_first_hears_where_the_others_stand(three):
    hub, one, _ = three
    one.tell({"step": 7, "phase": "forward", "for_s": 1.5})
    until(lambda: hub.poll(0.05), lambda: hub.known()[1].place)
    assert [peer.rank for peer in hub.known()] == [0, 1, 2]
    assert hub.known()[1].place == {"step": 7, "phase": "forward", "for_s": 1.5}
    assert one.known() == [one.me]


def test_one_that_dies_is_missed_by_all(three):
    hub, one, two = three
    two.tell({"step": 7, "phase": "backward", "for_s": 0.0})
    until(lambda: hub.poll(0.05), lambda: hub.known()[2].place)
    two._close()  # as the system does
    for departures in (until(lambda: hub.poll(0.05)), until(lambda: one.poll(0.05))):
        assert [departure.peer.rank for departure in departures] == [2]
        assert departures[0].why == "it ended without a word (its connection was closed)"
        assert departures[0].peer.place["phase"] == "backward"


def test_where_the_first_dies_the_others_notice(three):
    hub, one, two = three
    hub.tell({"step": 7, "phase": "scoring", "for_s": 0.0, "stack": "a long one"})
    hub._close()
    for spoke in (one, two):
        departure = until(lambda spoke=spoke: spoke.poll(0.05))[0]
        assert str(departure.peer) == "rank 0 (node0, process 4711)"
        assert departure.peer.place == {"step": 7, "phase": "scoring", "for_s": 0.0}


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("rank", [0, 2])
def test_who_says_how_it_ends_is_missed_only_if_it_failed(three, rank, failed):
    hub, one, two = three
    (hub if rank == 0 else two).leave("it failed with KeyError: 'a'" if failed else "has finished", failed)
    departures, deadline = [], time.monotonic() + (10 if failed else 0.5)
    while time.monotonic() < deadline and not departures:
        departures += one.poll(0.05) + (hub.poll(0.05) if rank else [])
        departures += hub.poll(0.05) if rank and not departures else []
    if failed:
        assert departures[0].peer.rank == rank
        assert departures[0].why == "it failed with KeyError: 'a'"
    else:
        assert departures == []


def test_strangers_are_not_listened_to(three):
    hub, *_ = three
    with socket.create_connection(("127.0.0.1", hub.port)) as stranger:
        stranger.sendall(b'{"hello": "guess", "rank": 9, "host": "", "pid": 1}\n{"how": "x", "failed": true}\n')
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert hub.poll(0.05) == []
        assert stranger.recv(1) == b"", "the connection was closed"
    assert [peer.rank for peer in hub.known()] == [0, 1, 2]


def test_long_messages_arrive_whole(three):
    hub, one, _ = three
    stack = "x" * 3_000_00
    deadline = time.monotonic() + 10
    while hub.known()[1].place.get("stack") != stack and time.monotonic() < deadline:
        one.tell({"step": 1, "phase": "forward", "stack": stack})
        assert hub.poll(0.05) == []
    assert hub.known()[1].place["stack"] == stack


def test_connect_gives_each_its_end():
    shared, ready, ends = [], threading.Event(), {}

    def broadcast(own):
        if own is not None:
            shared.append(own)
            ready.set()
        ready.wait()
        return shared[0]

    threads = [
        threading.Thread(target=lambda rank=rank: ends.update({rank: connect(rank, 2, "127.0.0.1", broadcast)}))
        for rank in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (type(ends[0]), type(ends[1])) == (Hub, Spoke)
    assert isinstance(connect(0, 1, "", broadcast), Alone)
    for end in ends.values():
        end._close()
