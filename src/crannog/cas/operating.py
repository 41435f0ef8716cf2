"""Orders of the CAS's operator: enrol, accept, remove; in a running CAS or beside a stopped one.

A running CAS holds its database alone (docs/adr/0941), so orders reach it by a socket in its state
directory and take effect at once. Where none runs the database is opened for the one order.
Both ways need the master key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from crannog.cas.keys import KeyProvider
from crannog.cas.las_keys import parse_las_key
from crannog.cas.service import CasService
from crannog.cas.store.sealing import derive_keys
from crannog.errors import Conflict, Error, FormatError, Misconfigured, Unavailable, chain, hints
from crannog.exchange.operator import (
    NONCE_SIZE,
    Action,
    Challenge,
    Done,
    OperatorClient,
    OperatorServer,
    Order,
)
from crannog.exchange.refusal import Refusal, refusal_error
from crannog.transport.connect import connect_unix
from crannog.transport.framed import feed
from crannog.transport.listener import Slot, unix_socket
from crannog.transport.log import Log, quoted
from crannog.transport.stream import Deadline, SocketStream
from crannog.wire import parse_hex

SOCKET = "operator.sock"
ACTOR = "operator"
_SECONDS = 10.0


def carry_out(service: CasService, order: Order) -> str:
    """Do what `order` says; the audit log's head after it.

    Raises:
        FormatError: the subject is no key or digest, or the note no note.
        AlreadyExists, NotFound, Denied, TooLarge: the list as it is does not allow it.
        StorageFailed: nothing is changed.
    """
    match order.action:
        case Action.LAS_ADD:
            service.trusted.enrol_las(parse_las_key(order.subject), order.note, actor=ACTOR)
        case Action.LAS_REMOVE:
            service.trusted.remove_las(_value(order.subject, "LAS key"), actor=ACTOR)
        case Action.LAS_READMIT:
            service.trusted.readmit_las(_value(order.subject, "LAS key"), actor=ACTOR)
        case Action.LAUNCHER_ADD:
            digest = _value(order.subject, "launcher digest")
            service.trusted.accept_launcher(digest, order.note, actor=ACTOR)
        case Action.LAUNCHER_REMOVE:
            digest = _value(order.subject, "launcher digest")
            service.trusted.withdraw_launcher(digest, actor=ACTOR)
        case Action.LAUNCHER_CLEAR:
            service.trusted.clear_launchers(actor=ACTOR)
    return str(service.head)


def _value(text: str, what: str) -> bytes:
    try:
        return parse_hex(text.strip().lower(), 32, what)
    except FormatError as error:
        where = "crannog self show" if "digest" in what else "the LAS at its start"
        error.hint = f"{where} prints it"
        raise


# --- the CAS's side -------------------------------------------------------------------------------


@contextlib.contextmanager
def operator_socket(directory: Path) -> Iterator[socket.socket]:
    """A listening socket in the state directory, mode 0600; removed at the end.

    Raises:
        Misconfigured: the directory's file system has no sockets, or something else is there.
    """
    # By descriptor: a socket's path has 107 bytes at most, a state directory's may have more.
    with _short(directory) as short:
        sock = unix_socket(short / SOCKET, "the operator's socket")
        (short / SOCKET).chmod(0o600)
    try:
        yield sock
    finally:
        sock.close()
        with contextlib.suppress(OSError):
            (directory / SOCKET).unlink()


class OperatorApi:
    """Handles connections on the operator's socket.

    Args:
        service: the CAS's use cases.
        log: lines for the operator.
    """

    def __init__(self, service: CasService, *, log: Log) -> None:
        self._service = service
        self._log = log

    def serve(self, slot: Slot) -> None:
        """One connection: challenge, order, answer.

        Raises:
            Unavailable: the peer was slow or gone.
            FormatError, IntegrityError: hostile bytes; the peer was told.
        """
        deadline = Deadline.after(_SECONDS)
        stream = SocketStream(slot.socket)
        end = OperatorServer(
            key=self._service.operator_key,
            database=self._service.database_identity,
            nonce=secrets.token_bytes(NONCE_SIZE),
        )
        stream.send(end.challenge(), deadline)
        try:
            while (order := end.next_event()) is None:
                if not feed(stream, end, deadline):
                    return
        except Error as error:
            with contextlib.suppress(Unavailable):
                stream.send(end.refusal(_refusal(error)), deadline)
            raise
        with slot.busy():
            stream.send(self._carry_out(end, order), deadline)

    def _carry_out(self, end: OperatorServer, order: Order) -> bytes:
        what = f"{order.action.value} {quoted(order.subject)}"
        try:
            head = carry_out(self._service, order)
        except Error as error:
            self._log.warning(f"CAS operator: refused {what}", reason=": ".join(chain(error)))
            return end.refusal(_refusal(error))
        self._log.info(f"CAS operator: {what}", head=head)
        return end.done(Done(head))


def _refusal(error: Error) -> Refusal:
    return Refusal(error.code, chain(error), "; ".join(hints(error)), "", retry=False)


# --- the operator's side --------------------------------------------------------------------------


def operate(database: Path, *, keys: KeyProvider, order: Order) -> str:
    """Have `order` carried out by the CAS of that database, running or not.

    Args:
        database: the SQLite file.
        keys: where its master key is.
        order: what to do.

    Returns:
        The audit log's new head.

    Raises:
        Refused: the running CAS says no, and why.
        Conflict: a CAS runs and has no socket; stop it first.
        Everything that `carry_out` and `open_store` raise.
    """
    try:
        service = CasService.open(database, keys=keys)
    except Conflict as held:
        return _by_socket(database, keys, order, held)
    try:
        return carry_out(service, order)
    finally:
        service.close("order carried out")


def _by_socket(database: Path, keys: KeyProvider, order: Order, held: Conflict) -> str:
    master = keys.load()
    if master is None:
        raise Misconfigured(f"{keys.describe()} holds no master key")
    deadline = Deadline.after(_SECONDS)
    path = database.resolve().with_name(SOCKET)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Misconfigured(f"{path} is not a socket")
        with _short(path.parent) as short:
            sock = connect_unix(str(short / SOCKET), deadline, "the CAS")
    except (OSError, Unavailable, Misconfigured) as error:
        raise Conflict(
            f"{held.message}, and it has no operator's socket {path}",
            hint="stop that CAS, repeat the command, start it again",
        ) from error
    stream = SocketStream(sock)
    try:
        return _exchange(stream, master, order, deadline)
    finally:
        stream.close()


def _exchange(stream: SocketStream, master: bytes, order: Order, deadline: Deadline) -> str:
    client = OperatorClient()
    while True:
        event = client.next_event()
        match event:
            case None:
                data = stream.receive(deadline)
                if not data:
                    raise Unavailable("the CAS ended the connection before its answer")
                client.receive(data)
            case Challenge(database, _):
                key = derive_keys(master, database).operator
                stream.send(client.order(order, key=key), deadline)
            case Done(head):
                return head
            case Refusal():
                raise refusal_error(event, "the CAS refused")


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[Path]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
