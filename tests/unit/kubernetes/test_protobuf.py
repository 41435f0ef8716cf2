"""The wire format against Google's library, with descriptors built here, and against garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors.plugin.generate import reference

from crannog.errors import FormatError
from crannog.kubernetes.messages import (
    AllocateRequest,
    AllocateResponse,
    ContainerAllocateResponse,
    Device,
    DevicePluginOptions,
    DeviceSpec,
    Empty,
    ListAndWatchResponse,
    Mount,
    RegisterRequest,
)
from crannog.kubernetes.protobuf import Fields

REFERENCE = reference()
TEXT = st.text(max_size=20)
OPTIONS = st.builds(DevicePluginOptions, st.booleans(), st.booleans())
CONTAINERS = st.builds(
    ContainerAllocateResponse,
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.lists(st.builds(Mount, TEXT, TEXT, st.booleans()), max_size=3).map(tuple),
    st.lists(st.builds(DeviceSpec, TEXT, TEXT, TEXT), max_size=3).map(tuple),
)
DEVICES = st.lists(st.builds(Device, TEXT, TEXT), max_size=4).map(tuple)
IDS = st.lists(st.lists(TEXT, max_size=4).map(tuple), max_size=3).map(tuple)


@given(st.builds(RegisterRequest, TEXT, TEXT, TEXT, OPTIONS))
def test_a_registration_is_what_the_library_makes_of_it(request: RegisterRequest) -> None:
    options = REFERENCE["DevicePluginOptions"](
        pre_start_required=request.options.pre_start_required,
        get_preferred_allocation_available=request.options.get_preferred_allocation_available,
    )
    expected = REFERENCE["RegisterRequest"](
        version=request.version,
        endpoint=request.endpoint,
        resource_name=request.resource_name,
        options=options,
    )
    assert request.encode() == expected.SerializeToString()
    assert RegisterRequest.parse(expected.SerializeToString()) == request


@given(DEVICES)
def test_devices_are_what_the_library_makes_of_them(devices: tuple[Device, ...]) -> None:
    expected = REFERENCE["ListAndWatchResponse"](
        devices=[
            REFERENCE["Device"](ID=device.device_id, health=device.health) for device in devices
        ]
    ).SerializeToString()
    assert ListAndWatchResponse(devices).encode() == expected
    assert ListAndWatchResponse.parse(expected).devices == devices


@given(IDS)
def test_a_request_is_what_the_library_makes_of_it(ids: tuple[tuple[str, ...], ...]) -> None:
    container = REFERENCE["ContainerAllocateRequest"]
    expected = REFERENCE["AllocateRequest"](
        container_requests=[container(devices_ids=each) for each in ids]
    ).SerializeToString()
    assert AllocateRequest(ids).encode() == expected
    assert AllocateRequest.parse(expected).container_requests == ids


@given(st.lists(CONTAINERS, max_size=3).map(tuple))
def test_a_response_is_read_by_the_library(
    responses: tuple[ContainerAllocateResponse, ...],
) -> None:
    message = REFERENCE["AllocateResponse"]()
    message.ParseFromString(AllocateResponse(responses).encode())
    assert len(message.container_responses) == len(responses)
    for theirs, ours in zip(message.container_responses, responses, strict=True):
        assert dict(theirs.envs) == ours.envs
        assert [(m.container_path, m.host_path, m.read_only) for m in theirs.mounts] == [
            (m.container_path, m.host_path, m.read_only) for m in ours.mounts
        ]
        assert [(d.container_path, d.host_path, d.permissions) for d in theirs.devices] == [
            (d.container_path, d.host_path, d.permissions) for d in ours.devices
        ]
    assert AllocateResponse.parse(message.SerializeToString()).container_responses == responses


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_our_error_or_read(data: bytes) -> None:
    for parse in (AllocateRequest.parse, RegisterRequest.parse, AllocateResponse.parse):
        with contextlib.suppress(FormatError):
            parse(data)


def test_fields_of_a_later_version_are_passed_over() -> None:
    later = b"\x78\x05" + b"\x81\x01" + bytes(8) + b"\x8d\x01" + bytes(4) + b"\x92\x01\x02hi"
    assert RegisterRequest.parse(later + b"\x0a\x07v1beta1").version == "v1beta1"
    assert Empty.parse(later) == Empty()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\x05abc", "field 1 is cut off"),
        (b"\x0a", "a number is cut off"),
        (b"\x0a" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "is cut off"),
        (b"\x0b", "wire type 3 is unknown"),
        (b"\x02\x00", "0 is no field's number"),
        (b"\x08\x01", "field 1 has wire type 0, expected 2"),
        (b"\x0a\x01\xff", "field 1 is not UTF-8"),
    ],
)
def test_what_is_not_well_formed(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        RegisterRequest.parse(data)


def test_the_last_of_several_texts_counts_and_absent_is_empty() -> None:
    fields = Fields(b"\x0a\x01a\x0a\x01b", "message")
    assert (fields.text(1), fields.text(2), fields.flag(3)) == ("b", "", False)
