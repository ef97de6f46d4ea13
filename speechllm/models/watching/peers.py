"""How the processes of a run notice that one of them is gone, while their main threads hang in a collective.

Every process keeps a connection to the first one, over which it says now and then where it stands. The system closes
the connections of a process that ends, however it ends, so that the others know within moments; and it answers for a
process that is alive but busy, so that none is given up for being slow. A machine that is gone answers no more, and its
connections break after :data:`SILENCE_S`.
"""

import json
import os
import secrets
import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SILENCE_S = 25
"""Seconds after which a machine that answers nothing counts as gone."""

CONNECT_S = 20.0
"""Seconds that a process waits for the first one to answer."""

MOST_UNSENT = 1 << 20
"""Bytes that wait for a process that does not read."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Peer:
    """What is known of a process.

    Attributes:
        rank: Its rank.
        host: Name of its machine.
        pid: Its process id.
        place: What it said last of where it stands: ``step``, ``phase``, ``for_s`` and more.
        heard: Time on :func:`time.monotonic` when it did.
        ended: How it ended, where it said so itself.
    """

    rank: int
    host: str = ""
    pid: int = 0
    place: dict[str, Any] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)
    ended: str | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.pid})"


@dataclass(frozen=True)
class Departure:
    """A process without which the others cannot go on.

    Attributes:
        peer: The process.
        why: What became of it.
    """

    peer: Peer
    why: str


class Wire:
    """A connection that carries lines of JSON and never waits."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setblocking(False)
        keep_alive(connection)
        self._received = self._unsent = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; it is dropped where the other end has long not read, or is gone, which reading will tell."""
        if len(self._unsent) < MOST_UNSENT:
            self._unsent += json.dumps(message).encode() + b"\n"
        try:
            while self._unsent:
                self._unsent = self._unsent[self.connection.send(self._unsent) :]
        except OSError:
            return

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that have come.

        Raises:
            ConnectionError: If the other end is gone.
        """
        try:
            got = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionError(error.strerror) from error
        if not got:
            msg = "its connection was closed"
            raise ConnectionError(msg)
        *lines, self._received = (self._received + got).split(b"\n")
        return [json.loads(line) for line in lines]


class Peers(ABC):
    """The other processes, as this one knows them.

    Args:
        rank: Rank of this process.
    """

    def __init__(self, rank: int) -> None:
        self.me = Peer(rank, socket.gethostname(), os.getpid())
        self._selector = selectors.DefaultSelector()

    def tell(self, place: dict[str, Any]) -> None:
        """Say where this process stands."""
        self.me.place, self.me.heard = place, time.monotonic()

    def poll(self, timeout_s: float) -> list[Departure]:
        """Wait for news, ``timeout_s`` at most, and return who has gone since."""
        if not self._selector.get_map():
            time.sleep(timeout_s)
            return []
        return [gone for key, _ in self._selector.select(timeout_s) for gone in self._hear(key)]

    def known(self) -> list[Peer]:
        """Return this process and those it hears of, by rank."""
        return [self.me]

    @abstractmethod
    def leave(self, how: str, failed: bool) -> None:
        """Say that this process ends, and close the connections.

        Args:
            how: How it ends, such as "has finished".
            failed: Whether the others cannot go on without it.
        """

    @abstractmethod
    def _hear(self, key: selectors.SelectorKey) -> list[Departure]:
        """Handle what one connection has to say."""

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]


class Alone(Peers):
    """No other process, or none that could be reached."""

    def leave(self, how: str, failed: bool) -> None:
        """Do nothing."""

    def _hear(self, key: selectors.SelectorKey) -> list[Departure]:
        return []


class Hub(Peers):
    """The first process, to which all others are connected.

    Args:
        address: What the others will connect to; only connections of this machine are taken where it is loopback.
    """

    def __init__(self, address: str) -> None:
        super().__init__(0)
        if address in LOOPBACK:
            self._server = socket.create_server(("127.0.0.1", 0))
        elif socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self._server.setblocking(False)
        self.port, self.token = int(self._server.getsockname()[1]), secrets.token_hex(16)
        self._wires: dict[int, Wire] = {}
        self._others: dict[int, Peer] = {}
        self._selector.register(self._server, selectors.EVENT_READ)

    def known(self) -> list[Peer]:
        """Return all processes that have made themselves known."""
        return [self.me, *(self._others[rank] for rank in sorted(self._others))]

    def tell(self, place: dict[str, Any]) -> None:
        """Say where this process stands to all."""
        super().tell(place)
        self._tell_all({"at": {name: value for name, value in place.items() if name != "stack"}})

    def leave(self, how: str, failed: bool) -> None:
        """Say so to all, and take no more connections."""
        self._tell_all({"gone": 0, "how": how, "failed": failed})
        self._close()

    def _hear(self, key: selectors.SelectorKey) -> list[Departure]:
        if key.fileobj is self._server:
            self._accept()
            return []
        wire: Wire = key.data["wire"]
        try:
            messages = wire.read()
        except (ConnectionError, ValueError) as error:
            return self._lose(key, f"it ended without a word ({error})")
        departures = []
        for message in messages:
            if message.get("hello") == self.token:
                peer = Peer(int(message["rank"]), str(message["host"]), int(message["pid"]))
                key.data["peer"] = peer
                self._wires[peer.rank], self._others[peer.rank] = wire, peer
                continue
            known: Peer | None = key.data["peer"]
            if known is None:  # not one of ours
                return self._lose(key, "")
            if "place" in message:
                known.place, known.heard = message["place"], time.monotonic()
            if "how" in message:
                known.ended = message["how"]
                if message["failed"]:
                    departures += self._report(known, message["how"])
        return departures

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        self._selector.register(connection, selectors.EVENT_READ, {"wire": Wire(connection), "peer": None})

    def _lose(self, key: selectors.SelectorKey, why: str) -> list[Departure]:
        self._selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
        peer: Peer | None = key.data["peer"]
        if peer is None:
            return []
        self._wires.pop(peer.rank, None)
        return [] if peer.ended else self._report(peer, why)

    def _report(self, peer: Peer, why: str) -> list[Departure]:
        peer.ended = peer.ended or "is gone"
        who = {"rank": peer.rank, "host": peer.host, "pid": peer.pid, "place": peer.place}
        self._tell_all({"gone": peer.rank, "how": why, "failed": True, "who": who})
        return [Departure(peer, why)]

    def _tell_all(self, message: dict[str, Any]) -> None:
        for wire in self._wires.values():
            wire.send(message)


class Spoke(Peers):
    """A process other than the first, connected to that.

    Args:
        rank: Its rank.
        address: Address of the first process's machine.
        port: Where it listens.
        token: What it knows its own by.
        first: The first process: name of its machine, and its process id.

    Raises:
        OSError: If it cannot be reached.
    """

    def __init__(self, rank: int, address: str, port: int, token: str, first: tuple[str, int]) -> None:
        super().__init__(rank)
        connection = socket.create_connection((address, port), timeout=CONNECT_S)
        self._wire = Wire(connection)
        self._first = Peer(0, *first)
        self._wire.send({"hello": token, "rank": rank, "host": self.me.host, "pid": self.me.pid})
        self._selector.register(connection, selectors.EVENT_READ)

    def tell(self, place: dict[str, Any]) -> None:
        """Say where this process stands to the first one."""
        super().tell(place)
        self._wire.send({"place": place})

    def leave(self, how: str, failed: bool) -> None:
        """Say so to the first process, which tells the others where that matters."""
        self._wire.send({"how": how, "failed": failed})
        self._close()

    def _hear(self, key: selectors.SelectorKey) -> list[Departure]:
        try:
            messages = self._wire.read()
        except (ConnectionError, ValueError) as error:
            self._close()
            return [] if self._first.ended else [Departure(self._first, f"it ended without a word ({error})")]
        departures = []
        for message in messages:
            if "at" in message:
                self._first.place, self._first.heard = message["at"], time.monotonic()
                continue
            peer = Peer(**message["who"]) if "who" in message else self._first
            peer.ended = str(message["how"])
            if message["failed"]:
                departures.append(Departure(peer, peer.ended))
        return departures


def connect(rank: int, count: int, address: str, broadcast: Callable[[Any], Any]) -> Peers:
    """Connect the processes of a run with each other; all must call it.

    Args:
        rank: Rank of this process.
        count: Number of processes.
        address: Address at which all reach the first one.
        broadcast: Gives all processes what the first one has.

    Raises:
        OSError: If this process cannot reach the first one; it may go on as if :class:`Alone`.
    """
    if count == 1:
        return Alone(rank)
    hub = Hub(address) if rank == 0 else None
    port, token, first = broadcast((hub.port, hub.token, (hub.me.host, hub.me.pid)) if hub else None)
    return hub or Spoke(rank, address, port, token, first)


def keep_alive(connection: socket.socket) -> None:
    """Let the system break a connection whose other machine answers nothing for :data:`SILENCE_S`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_NODELAY": 1,
        "TCP_KEEPIDLE": SILENCE_S - 15,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 1000 * SILENCE_S,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # macOS lacks some
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
