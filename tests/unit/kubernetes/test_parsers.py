"""Device ids, the chart's variables, the kubelet's file: whatever comes is taken or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crannog.cli.main import run_cli
from crannog.errors import Error
from crannog.kubernetes.allocation import allocate
from crannog.kubernetes.checkpoint import CHECKPOINT, parse_checkpoint, read_checkpoint
from crannog.kubernetes.devices import Found
from crannog.kubernetes.messages import AllocateRequest
from crannog.kubernetes.resources import NAMES, RESOURCES, Mode, Offer

OFFER = Offer(Mode.SIMULATION, Found(), 12)
REFUSED, USAGE = 78, 2  # the release is not there; the value is none
VARIABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NUMBERS = st.integers(-20, 20_000).map(str)
ODD_IDS = st.sampled_from(["simulation-", "simulation-01", "simulation-+1", "simulation- 1", "-1"])


@given(st.one_of(st.text(max_size=30), ODD_IDS, st.integers(-5, 20).map("simulation-{}".format)))
def test_an_id_is_one_of_those_announced_or_refused(device_id: str) -> None:
    request = AllocateRequest(((device_id,),))
    if device_id in OFFER.ids():
        response = allocate(request, RESOURCES[0], OFFER, release="/r", socket_directory="/s")
        assert len(response.container_responses) == 1
        return
    with pytest.raises(Error) as refused:
        allocate(request, RESOURCES[0], OFFER, release="/r", socket_directory="/s")
    assert len(refused.value.message) < 300


def _started_with(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patch:
        patch.setenv(variable, value)
        return run_cli(
            ["kubernetes", "device-plugin", "--launchers", "/nowhere", "--release", "0" * 64],
            program="crannog",
        )


@given(value=st.one_of(VARIABLE, NUMBERS))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_number_of_pods(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = _started_with("MAX_SGX_PODS", value, monkeypatch)
    said = capsys.readouterr().err
    try:
        good = not value or 1 <= int(value) <= 10_000
    except ValueError:
        good = False
    assert status == (REFUSED if good else USAGE), value
    assert "Traceback" not in said
    assert good or "MAX_SGX_PODS" in said


@given(value=st.one_of(VARIABLE, st.sampled_from(["true", "false", "True", "1", "0", "maybe"])))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whether_to_label(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = _started_with("LABEL_NODES", value, monkeypatch)
    said = capsys.readouterr().err
    known = {"true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0", ""}
    good = value.strip().lower() in known
    assert status == (REFUSED if good else USAGE), value
    assert "Traceback" not in said
    assert good or "LABEL_NODES" in said


def _entry(resource: str, *ids: str) -> dict[str, object]:
    return {
        "PodUID": "u",
        "ContainerName": "c",
        "ResourceName": resource,
        "DeviceIDs": {"-1": list(ids)},
        "AllocResp": "",
    }


def _checkpoint(*entries: object) -> bytes:
    return json.dumps(
        {"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 2**63 + 1}
    ).encode()


def test_the_kubelet_s_file_says_what_containers_have() -> None:
    data = _checkpoint(
        _entry(NAMES[0], "simulation-1", "simulation-7"),
        _entry(NAMES[1], "hardware-1"),
        _entry("example.com/other", "hardware-1", "simulation-2"),
    )
    assert parse_checkpoint(data) == {Mode.SIMULATION: 2, Mode.HARDWARE: 1}


def test_a_kubelet_that_has_given_nothing() -> None:
    data = b'{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}'
    assert parse_checkpoint(data) == dict.fromkeys(Mode, 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=60), st.lists(JSON, max_size=3).map(lambda e: _checkpoint(*e))))
def test_a_file_of_another_form_is_not_known(data: bytes) -> None:
    found = parse_checkpoint(data)
    assert found is None or not any(found.values())


@given(JSON)
def test_ids_of_another_form_are_not_counted(ids: object) -> None:
    entry = {**_entry(NAMES[0]), "DeviceIDs": ids}
    found = parse_checkpoint(_checkpoint(entry))
    assert found is None or not any(found.values())


def test_a_file_that_is_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None
    os.mkfifo(tmp_path / CHECKPOINT)
    assert read_checkpoint(tmp_path) is None
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / "elsewhere").write_bytes(_checkpoint())
    (tmp_path / CHECKPOINT).symlink_to("elsewhere")
    assert read_checkpoint(tmp_path) is None
