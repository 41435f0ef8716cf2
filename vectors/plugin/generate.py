"""Writes the vectors of this directory; the same every time: python -m vectors.plugin.generate.

Google's protobuf library makes the bytes, from descriptors that are built here from the interface:
nothing of `crannog` is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {"string": 9, "bool": 8}
# name: type or message (`*` repeated, `map` of strings), number; from the interface.
SCHEMA: dict[str, dict[str, tuple[str, int]]] = {
    "Empty": {},
    "DevicePluginOptions": {
        "pre_start_required": ("bool", 1),
        "get_preferred_allocation_available": ("bool", 2),
    },
    "RegisterRequest": {
        "version": ("string", 1),
        "endpoint": ("string", 2),
        "resource_name": ("string", 3),
        "options": ("DevicePluginOptions", 4),
    },
    "Device": {"ID": ("string", 1), "health": ("string", 2)},
    "ListAndWatchResponse": {"devices": ("*Device", 1)},
    "ContainerAllocateRequest": {"devices_ids": ("*string", 1)},
    "AllocateRequest": {"container_requests": ("*ContainerAllocateRequest", 1)},
    "Mount": {
        "container_path": ("string", 1),
        "host_path": ("string", 2),
        "read_only": ("bool", 3),
    },
    "DeviceSpec": {
        "container_path": ("string", 1),
        "host_path": ("string", 2),
        "permissions": ("string", 3),
    },
    "ContainerAllocateResponse": {
        "envs": ("map", 1),
        "mounts": ("*Mount", 2),
        "devices": ("*DeviceSpec", 3),
    },
    "AllocateResponse": {"container_responses": ("*ContainerAllocateResponse", 1)},
}


def reference() -> dict[str, Callable[..., Any]]:
    """Google's class for each message of the interface."""
    file: Any = descriptor_pb2.FileDescriptorProto(
        name="api.proto", package="v1beta1", syntax="proto3"
    )
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field_name, (kind, number) in fields.items():
            field = message.field.add(name=field_name, number=number, label=1)
            if kind == "map":
                entry = message.nested_type.add(name=f"{field_name.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=9)
                entry.field.add(name="value", number=2, label=1, type=9)
                field.label, field.type = 3, 11
                field.type_name = f".v1beta1.{name}.{entry.name}"
                continue
            if kind.startswith("*"):
                field.label = 3
            kind = kind.removeprefix("*")
            field.type = _TYPES.get(kind, 11)
            if kind not in _TYPES:
                field.type_name = f".v1beta1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1beta1.{name}"))
        for name in SCHEMA
    }


_DIGEST = "0123456789abcdef" * 4
_GIVEN = {
    "envs": {"CRANNOG_LAS_SOCKET": "/run/crannog/las/socket", "CRANNOG_SGX": "hardware"},
    "mounts": [
        {
            "container_path": "/run/crannog/launcher",
            "host_path": f"/var/lib/crannog/launcher/{_DIGEST}",
            "read_only": True,
        },
        {
            "container_path": "/run/crannog/las",
            "host_path": "/run/crannog/las",
            "read_only": True,
        },
    ],
    "devices": [
        {
            "container_path": "/dev/sgx/enclave",
            "host_path": "/dev/sgx_enclave",
            "permissions": "rw",
        }
    ],
}
_REGISTRATION = {
    "version": "v1beta1",
    "endpoint": "crannog-sgx.k8s.io-sgx.sock",
    "resource_name": "sgx.k8s.io/sgx",
    "options": {},
}


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by its file's name."""
    classes = reference()

    def encoded(message: str, fields: dict[str, Any]) -> dict[str, Any]:
        value = classes[message](**fields)
        data = value.SerializeToString(deterministic=True)
        return {"message": message, "fields": fields, "bytes": data.hex()}

    asked = [{"devices_ids": ["hardware-0", "hardware-7"]}, {"devices_ids": ["hardware-1"]}]
    listed = [
        {"ID": "simulation-0", "health": "Healthy"},
        {"ID": "simulation-1", "health": "Unhealthy"},
    ]
    registration = encoded("RegisterRequest", _REGISTRATION)
    return {
        "register": registration,
        "options": encoded("DevicePluginOptions", {}),
        "devices": encoded("ListAndWatchResponse", {"devices": listed}),
        "no-device": encoded("ListAndWatchResponse", {"devices": []}),
        "allocate": encoded("AllocateRequest", {"container_requests": asked}),
        "allocated": encoded("AllocateResponse", {"container_responses": [_GIVEN]}),
        "later-field": {**registration, "bytes": registration["bytes"] + "9a0601ff"},
        "cut-off": _malformed("AllocateRequest", "0a0c0a0a6861"),
        "wrong-type": _malformed("RegisterRequest", "0801"),
        "group": _malformed("RegisterRequest", "0b0c"),
        "long-number": _malformed("AllocateRequest", "0affffffffffffffffffff01"),
        "not-utf-8": _malformed("RegisterRequest", "0a01ff"),
    }


def _malformed(message: str, data: str) -> dict[str, Any]:
    return {"message": message, "bytes": data, "error": "malformed"}


def text(vector: dict[str, Any]) -> str:
    """A vector as it is in its file."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write them all."""
    for name, vector in vectors().items():
        (Path(__file__).parent / f"{name}.json").write_text(text(vector))


if __name__ == "__main__":
    main()
