"""Questions to DNS servers: whom, how often, how long, over datagrams and streams.

Decides which answers count. What a message says is `exchange.dns`'s, which names are asked for in
which order is `exchange.resolution`'s.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import NamedTuple

from crannog.errors import FormatError, Unavailable
from crannog.exchange.dns import (
    NO_ERROR,
    NO_SUCH_NAME,
    Answer,
    Kind,
    encode_name,
    encode_query,
    mix_case,
    parse_answer,
)
from crannog.exchange.resolution import Resolving, names_to_ask
from crannog.transport.stream import Deadline, SocketStream

_DATAGRAM = 4096
_PATIENCE = 0.5  # seconds for the other family once one has answered with addresses
_FAMILIES = ((Kind.A, socket.AF_INET), (Kind.AAAA, socket.AF_INET6))


class NotResolved(Unavailable):
    """A name that no file and no server knows, or that could not be asked for."""


class Endpoint(NamedTuple):
    """Where to connect: a family, and the numbers that `socket.connect` takes for it."""

    family: socket.AddressFamily
    target: tuple[str, int] | tuple[str, int, int, int]


def parse_literal(host: str, port: int) -> Endpoint | None:
    """The endpoint of an address in numbers, IPv6 with or without `%SCOPE`; None for a name.

    Raises:
        NotResolved: its scope is no interface here.
    """
    text, percent, scope = host.partition("%")
    if not percent and _packs(socket.AF_INET, text):
        return Endpoint(socket.AF_INET, (text, port))
    if not _packs(socket.AF_INET6, text):
        return None
    if not percent:
        return Endpoint(socket.AF_INET6, (text, port, 0, 0))
    if scope.isascii() and scope.isdigit() and len(scope) < 10:
        return Endpoint(socket.AF_INET6, (text, port, 0, int(scope)))
    try:
        return Endpoint(socket.AF_INET6, (text, port, 0, socket.if_nametoindex(scope)))
    except OSError as error:
        raise NotResolved(f"address {host[:120]!r}: no such network interface") from error


def _packs(family: socket.AddressFamily, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


class Asking:
    """The questions for one name.

    Args:
        resolving: whom to ask, and how.
        port: of the servers.
        random: that many random bytes.
        deadline: for all of it.
    """

    def __init__(
        self, resolving: Resolving, port: int, random: Callable[[int], bytes], deadline: Deadline
    ) -> None:
        self._resolving = resolving
        self._port = port
        self._random = random
        self._deadline = deadline
        self._trouble = ""
        self._heard = False

    def find(self, name: str) -> tuple[str, ...]:
        """The addresses of the first full name that has any, IPv4 first.

        Raises:
            NotResolved: no server knows it, or none answered in time.
        """
        for each in names_to_ask(name, self._resolving):
            try:
                encoded = encode_name(each)
            except FormatError:
                continue  # a search list may hold anything
            found = self._one(encoded)
            if found:
                return found
        servers = ", ".join(self._resolving.servers)
        if self._trouble:
            raise NotResolved(f"name {name!r}: {self._trouble} (asked {servers})")
        raise NotResolved(f"name {name!r} is not known (asked {servers})")

    def _one(self, name: bytes) -> tuple[str, ...]:
        answers: dict[Kind, Answer] = {}
        for _ in range(self._resolving.attempts):
            for server in self._resolving.servers:
                if self._deadline.left() == 0:
                    raise NotResolved("no time was left to ask for the name")
                self._ask(server, name, answers)
                if any(answer.code == NO_SUCH_NAME for answer in answers.values()):
                    return ()
                if len(answers) == len(Kind) or any(each.addresses for each in answers.values()):
                    return tuple(
                        socket.inet_ntop(family, address)
                        for kind, family in _FAMILIES
                        if kind in answers
                        for address in answers[kind].addresses
                    )
        if not self._heard:
            raise NotResolved(f"no DNS server answers: {self._trouble}")
        return ()

    def _ask(self, server: str, name: bytes, answers: dict[Kind, Answer]) -> None:
        """Ask one server once for what is not in `answers` yet, and put there what it knows."""
        seconds = min(float(self._resolving.timeout), self._deadline.left())
        until = Deadline.after(seconds)
        try:
            endpoint = parse_literal(server, self._port)
            if endpoint is None:
                raise ValueError("resolv.conf's addresses are addresses")
            if self._resolving.tcp:
                for kind in [kind for kind in Kind if kind not in answers]:
                    self._keep(answers, kind, self._by_stream(endpoint, name, kind, until))
            else:
                self._by_datagrams(endpoint, name, answers, until)
        except (OSError, Unavailable) as error:
            text = error.message if isinstance(error, Unavailable) else error.strerror
            self._trouble = f"{server}: {(text or 'failed').lower()}"

    def _by_datagrams(
        self, endpoint: Endpoint, name: bytes, answers: dict[Kind, Answer], until: Deadline
    ) -> None:
        # A socket, and so a port, of its own for each question: two at once from one port are lost
        # by some connection tracking.
        with contextlib.ExitStack() as held:
            poller = select.poll()
            open_questions: dict[int, _Question] = {}
            for kind in Kind:
                if kind in answers:
                    continue
                sock = held.enter_context(socket.socket(endpoint.family, socket.SOCK_DGRAM))
                sock.setblocking(False)
                sock.connect(endpoint.target)  # from nobody else
                question = _Question(kind, self._identity(), self._mixed(name), sock)
                sock.send(question.message())
                poller.register(sock, select.POLLIN)
                open_questions[sock.fileno()] = question
            while open_questions:
                ready = poller.poll(until.left() * 1000)
                if not ready:
                    if not answers:
                        self._trouble = f"{endpoint.target[0]}: no answer"
                    return
                for number, _ in ready:
                    question = open_questions[number]
                    answer = question.receive()
                    if answer is None:
                        continue
                    poller.unregister(number)
                    del open_questions[number]
                    if answer.truncated or not answer.exact:
                        # Not guessed blindly over a stream, whatever the name's case does.
                        answer = self._by_stream(endpoint, name, question.kind, until)
                    self._keep(answers, question.kind, answer)
                    if answer.code == NO_SUCH_NAME:
                        return  # for the other family as well
                    if answer.addresses:
                        until = Deadline(min(until.at, Deadline.after(_PATIENCE).at))

    def _by_stream(self, endpoint: Endpoint, name: bytes, kind: Kind, until: Deadline) -> Answer:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(max(until.left(), 0.001))
            sock.connect(endpoint.target)
            stream = SocketStream(sock)
            question = _Question(kind, self._identity(), name, sock)
            query = question.message()
            stream.send(len(query).to_bytes(2, "big") + query, until)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                part = stream.receive(until)
                if not part:
                    raise Unavailable("connection ended before the answer")
                data += part
            length = int.from_bytes(data[:2], "big")
            try:
                return question.answer(data[2 : 2 + length])
            except FormatError as error:
                raise Unavailable(error.message) from error

    def _keep(self, answers: dict[Kind, Answer], kind: Kind, answer: Answer) -> None:
        self._heard = True
        if answer.truncated:
            self._trouble = "an answer that is cut off"
        elif answer.code in (NO_ERROR, NO_SUCH_NAME):
            answers[kind] = answer
        else:
            self._trouble = f"the server failed with code {answer.code}"

    def _identity(self) -> int:
        return int.from_bytes(self._random(2), "big")

    def _mixed(self, name: bytes) -> bytes:
        return mix_case(name, self._random(32))


class _Question(NamedTuple):
    """A question that is on its way."""

    kind: Kind
    identity: int
    name: bytes
    sock: socket.socket

    def message(self) -> bytes:
        """The message."""
        return encode_query(self.identity, self.name, self.kind)

    def answer(self, data: bytes) -> Answer:
        """What `data` answers; `FormatError` where it is not the answer."""
        return parse_answer(data, identity=self.identity, name=self.name, kind=self.kind)

    def receive(self) -> Answer | None:
        """The answer of a datagram that has come; None where it was none. OSError."""
        try:
            return self.answer(self.sock.recv(_DATAGRAM))
        except (BlockingIOError, InterruptedError, FormatError):
            return None
