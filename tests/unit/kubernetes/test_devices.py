"""Which names count as devices, in whatever form the driver has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crannog.kubernetes.devices import Found, Node, scan


def device(root: Path, name: str) -> None:
    """A character device that anybody may make: 0, 0 is overlayfs's mark."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))


@pytest.mark.parametrize("name", ["sgx_enclave", "sgx/enclave", "sgx/sgx_enclave", "sgx"])
def test_each_name_of_the_enclave_device(tmp_path: Path, name: str) -> None:
    device(tmp_path, name)
    assert scan(str(tmp_path)) == Found(enclave=(Node(name, name),))


@pytest.mark.parametrize("name", ["sgx_provision", "sgx/provision", "sgx/sgx_provision"])
def test_each_name_of_the_provisioning_device(tmp_path: Path, name: str) -> None:
    device(tmp_path, name)
    assert scan(str(tmp_path)) == Found(provision=(Node(name, name),))


def test_the_older_driver(tmp_path: Path) -> None:
    device(tmp_path, "isgx")
    assert scan(str(tmp_path)) == Found(ias=(Node("isgx", "isgx"),))


@pytest.mark.parametrize("target", ["../sgx_enclave", "/dev/sgx_enclave"])
def test_a_link_within_dev_is_given_under_its_name_with_what_it_leads_to(
    tmp_path: Path, target: str
) -> None:
    device(tmp_path, "sgx_enclave")
    (tmp_path / "sgx").mkdir()
    (tmp_path / "sgx/enclave").symlink_to(target)
    assert scan(str(tmp_path)).enclave == (
        Node("sgx_enclave", "sgx_enclave"),
        Node("sgx/enclave", "sgx_enclave"),
    )


@pytest.mark.parametrize("target", ["/etc/passwd", "../../isgx", "isgx", "/dev/../isgx"])
def test_a_link_out_of_dev_or_in_a_circle_does_not_count(tmp_path: Path, target: str) -> None:
    (tmp_path / "dev").mkdir()
    device(tmp_path, "isgx")
    (tmp_path / "dev/isgx").symlink_to(target)
    assert scan(str(tmp_path / "dev")) == Found()


def test_a_file_or_directory_with_a_device_s_name_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "sgx_enclave").write_bytes(b"")
    (tmp_path / "isgx").mkdir()
    (tmp_path / "sgx").mkdir()
    assert scan(str(tmp_path)) == Found()


def test_a_dev_that_is_not_there(tmp_path: Path) -> None:
    assert scan(str(tmp_path / "none")) == Found()
