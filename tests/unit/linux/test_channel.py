"""One descriptor from one process to another."""

from __future__ import annotations

import os

from crannog.linux.channel import receive_descriptor, send_descriptor, socket_pair


def test_descriptor_arrives_with_its_text() -> None:
    ours, theirs = socket_pair()
    reading, writing = os.pipe()
    send_descriptor(theirs, b"L1", writing)
    os.close(writing)
    text, descriptor = receive_descriptor(ours, 4096)
    assert text == b"L1"
    assert descriptor is not None
    os.write(descriptor, b"x")
    assert os.read(reading, 1) == b"x"
    for each in (descriptor, reading):
        os.close(each)
    ours.close()
    theirs.close()


def test_text_without_a_descriptor_and_the_end() -> None:
    ours, theirs = socket_pair()
    theirs.sendall(b"Fno")
    assert receive_descriptor(ours, 4096) == (b"Fno", None)
    theirs.close()
    assert receive_descriptor(ours, 4096) == (b"", None)
    ours.close()


def test_ends_are_not_inherited_over_execve() -> None:
    for end in socket_pair():
        assert not os.get_inheritable(end.fileno())
        end.close()
