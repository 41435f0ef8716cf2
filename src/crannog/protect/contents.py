"""Encrypts, or authenticates, the contents of many files on all processors.

Large files are done in segments of whole chunks that several workers read, encrypt and write at
once, middling ones in batches by a worker: AES-GCM and SHA-256 over large buffers and all system
calls run without the interpreter's lock. Small ones are done by the caller's own thread, since
their cost is the interpreter's. Not more is under way than `_AHEAD` tasks per worker, so memory
stays bounded. A file that changes while it is read is refused: the result would be a mixture.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

from crannog.errors import Conflict
from crannog.protect.files import disk_error, write_all
from crannog.protect.staging import Staging
from crannog.protect.walk import Source
from crannog.shield.chunks import ChunkWriter
from crannog.shield.model import CHUNK_TAG, FILE_KEY, FileEntry, Protection
from crannog.shield.paths import printable

_SEGMENT = 4 * 1024 * 1024  # bytes that a worker does at a time
_SMALL = 128 * 1024  # bytes up to which a file's cost is mostly the interpreter's
_AHEAD = 3
_TOLD_FILES = 256  # how many small files make one call of `progress`
_KEYTAG_SIZE = 8192
_KEYTAG = re.compile(rb'AES-GCM tag: [0-9a-f]{32} key: [0-9a-f]{64}|"key":"[0-9a-f]{64}"')

Progress: TypeAlias = Callable[[int, int], None]  # bytes and files done since the last call


class Settings(NamedTuple):
    """How the files of one `addf` are treated.

    Attributes:
        root: the source directory.
        protection: AUTHENTICATED or ENCRYPTED.
        chunk_length: bytes of a chunk.
        owner: uid and gid to record instead of the source's, or None.
        staging: where results are written; None where files are only authenticated in place.
        random: bytes for the files' keys.
        workers: threads.
    """

    root: bytes
    protection: Protection
    chunk_length: int
    owner: tuple[int, int] | None
    staging: Staging | None
    random: Callable[[int], bytes]
    workers: int


class Protected(NamedTuple):
    """One file's result; `keytag` where its content looks like what `fspf encrypt` prints."""

    number: int
    entry: FileEntry
    keytag: bool


class _Task(NamedTuple):
    number: int
    source: Source
    key: bytes


class _Done(NamedTuple):
    size: int
    results: list[Protected]


class _Buffers(threading.local):
    """A worker's room for one segment, before and after."""

    def __init__(self, length: int) -> None:
        self.plain, self.out = bytearray(length), bytearray(length + CHUNK_TAG)


def protect_contents(
    files: Iterable[tuple[int, Source]], settings: Settings, progress: Progress
) -> Iterator[Protected]:
    """The entries of all `files` (each with its number in the staging directory), in any order.

    Raises:
        Conflict: a file changed or vanished meanwhile.
        NotFound, StorageFailed: it cannot be read, or the result cannot be written.
    """
    pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="fspf")
    try:
        yield from _run(pool, files, settings, progress)
    finally:
        # After an error or Ctrl-C nothing new starts; what runs ends within a segment.
        pool.shutdown(wait=True, cancel_futures=True)


def _run(
    pool: ThreadPoolExecutor,
    files: Iterable[tuple[int, Source]],
    settings: Settings,
    progress: Progress,
) -> Iterator[Protected]:
    waiting: deque[Future[_Done]] = deque()
    step = max(1, _SEGMENT // settings.chunk_length) * settings.chunk_length
    buffers = _Buffers(step)

    def finished(limit: int) -> Iterator[Protected]:
        while len(waiting) > limit:
            done = waiting.popleft().result()
            progress(done.size, len(done.results))
            yield from done.results

    small = bytearray(_SMALL), bytearray(_SMALL + CHUNK_TAG)
    batch: list[_Task] = []
    batched = 0
    told = (0, 0)
    for number, source in files:
        key = bytes(FILE_KEY)
        if settings.protection is Protection.ENCRYPTED:
            key = settings.random(FILE_KEY)
        task = _Task(number, source, key)
        if source.stat.st_size > _SEGMENT:
            large = _Large(task, settings, step, buffers)
            for future in large.submit(pool):
                waiting.append(future)
                yield from finished(_AHEAD * settings.workers)
            continue
        if source.stat.st_size <= _SMALL:
            yield _small_file(task, settings, *small)
            told = (told[0] + source.stat.st_size, told[1] + 1)
            if told[1] == _TOLD_FILES:
                progress(*told)
                told = (0, 0)
            continue
        if batched + source.stat.st_size > _SEGMENT:
            waiting.append(pool.submit(_batch, batch, settings))
            yield from finished(_AHEAD * settings.workers)
            batch, batched = [], 0
        batch.append(task)
        batched += source.stat.st_size
    if batch:
        waiting.append(pool.submit(_batch, batch, settings))
    yield from finished(0)
    progress(*told)


def _batch(batch: list[_Task], settings: Settings) -> _Done:
    room = max(task.source.stat.st_size for task in batch)
    plain, out = bytearray(room), bytearray(room + CHUNK_TAG)
    results = [_small_file(task, settings, plain, out) for task in batch]
    return _Done(sum(task.source.stat.st_size for task in batch), results)


def _small_file(task: _Task, settings: Settings, plain: bytearray, out: bytearray) -> Protected:
    size = task.source.stat.st_size
    path = os.path.join(settings.root, task.source.relative)
    descriptor = _open(path, task.source)
    try:
        with memoryview(plain)[:size] as view:
            _read_exactly(descriptor, view, 0, path)
            _check_unchanged(descriptor, path, task.source)
            tags = _writer(task, settings).write(0, view, memoryview(out)[: size + CHUNK_TAG])
            keytag = 0 < size <= _KEYTAG_SIZE and _KEYTAG.search(view) is not None
    finally:
        os.close(descriptor)
    if settings.staging is not None:
        try:
            target = settings.staging.open(task.number, _mode(task, settings))
            try:
                write_all(target, memoryview(out)[:size])
                _keep_time(target, task, settings)
            finally:
                os.close(target)
        except OSError as error:
            raise _write_error(error, task, settings) from error
    return Protected(task.number, _entry(task, settings, tags), keytag)


class _Large:
    """A file that is done in segments; the last one to end makes the entry."""

    def __init__(self, task: _Task, settings: Settings, step: int, buffers: _Buffers) -> None:
        self._task, self._settings = task, settings
        self._path = os.path.join(settings.root, task.source.relative)
        self._writer = _writer(task, settings)
        self._starts = range(0, task.source.stat.st_size, step)
        self._tags: list[bytes] = [b""] * len(self._starts)
        self._left = len(self._starts)
        self._lock = threading.Lock()
        self._buffers = buffers
        staging = settings.staging
        if staging is not None:
            try:
                os.close(staging.open(task.number, _mode(task, settings)))
            except OSError as error:
                raise _write_error(error, task, settings) from error

    def submit(self, pool: ThreadPoolExecutor) -> Iterator[Future[_Done]]:
        """One task for each segment, made as they are asked for."""
        for position in range(len(self._starts)):
            yield pool.submit(self._segment, position)

    def _segment(self, position: int) -> _Done:
        task, settings = self._task, self._settings
        size, start = task.source.stat.st_size, self._starts[position]
        length = min(self._starts.step, size - start)
        plain, out = self._buffers.plain, self._buffers.out
        # Each segment opens the file anew: no descriptor is left open when one of them fails.
        descriptor = _open(self._path, task.source)
        try:
            with memoryview(plain)[:length] as view:
                _read_exactly(descriptor, view, start, self._path)
                _check_unchanged(descriptor, self._path, task.source)
                first = start // settings.chunk_length
                room = memoryview(out)[: length + CHUNK_TAG]
                self._tags[position] = self._writer.write(first, view, room)
        finally:
            os.close(descriptor)
        if settings.staging is not None:
            self._write(memoryview(out)[:length], start)
        with self._lock:
            self._left -= 1
            if self._left:
                return _Done(length, [])
        result = Protected(task.number, _entry(task, settings, b"".join(self._tags)), False)
        return _Done(length, [result])

    def _write(self, data: memoryview, start: int) -> None:
        staging = self._settings.staging
        assert staging is not None
        try:
            target = staging.reopen(self._task.number)
            try:
                write_all(target, data, start)
                _keep_time(target, self._task, self._settings)
            finally:
                os.close(target)
        except OSError as error:
            raise _write_error(error, self._task, self._settings) from error


def _writer(task: _Task, settings: Settings) -> ChunkWriter:
    chunks = -(-task.source.stat.st_size // settings.chunk_length)
    return ChunkWriter(
        settings.protection, task.key, chunks=chunks, chunk_length=settings.chunk_length
    )


def _entry(task: _Task, settings: Settings, tags: bytes) -> FileEntry:
    status = task.source.stat
    uid, gid = settings.owner or (status.st_uid, status.st_gid)
    return FileEntry(
        settings.protection,
        stat.S_IMODE(status.st_mode),
        uid,
        gid,
        status.st_size,
        status.st_mtime_ns,
        settings.chunk_length,
        task.key,
        tags,
    )


def _mode(task: _Task, settings: Settings) -> int:
    # Ciphertext is for whoever runs the image; a plain copy keeps the mode that guards it.
    if settings.protection is Protection.ENCRYPTED:
        return 0o644
    return stat.S_IMODE(task.source.stat.st_mode) & 0o777


def _keep_time(descriptor: int, task: _Task, settings: Settings) -> None:
    # Ciphertext is new and says so; a plain copy is as old as its source, as with `cp -p`.
    if settings.protection is not Protection.ENCRYPTED:
        os.utime(descriptor, ns=(task.source.stat.st_mtime_ns, task.source.stat.st_mtime_ns))


def _open(path: bytes, source: Source) -> int:
    # A link or FIFO that took the file's place meanwhile is neither followed nor waited for.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise Conflict(
            f"{printable(path)} vanished while it was to be read", hint="run the command again"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link by now
            raise _changed(path) from error
        raise disk_error(error, "read", path) from error
    try:
        _check_unchanged(descriptor, path, source)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_unchanged(descriptor: int, path: bytes, source: Source) -> None:
    now, then = os.fstat(descriptor), source.stat
    if (now.st_ino, now.st_dev, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
        then.st_ino,
        then.st_dev,
        then.st_size,
        then.st_mtime_ns,
        then.st_ctime_ns,
    ):
        raise _changed(path)


def _read_exactly(descriptor: int, view: memoryview, offset: int, path: bytes) -> None:
    done = 0
    while done < len(view):
        try:
            count = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as error:
            raise disk_error(error, "read", path) from error
        if not count:
            raise _changed(path)
        done += count


def _changed(path: bytes) -> Conflict:
    return Conflict(
        f"{printable(path)} changed while it was read",
        hint="run the command again when nothing writes to SOURCE_DIR",
    )


def _write_error(error: OSError, task: _Task, settings: Settings) -> Exception:
    output = settings.staging.output if settings.staging is not None else settings.root
    return disk_error(error, "write", os.path.join(output, task.source.relative))
