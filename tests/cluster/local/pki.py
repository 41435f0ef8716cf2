"""The cluster's certificates and the files by which its parts find the API server."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.local.settings import CONTROL, Shape, address_of

SERVICE = "10.96.0.1"  # the API server's own service
_DAY = datetime.timedelta(days=1)
_USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
}


@dataclass(frozen=True, slots=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_pki(directory: Path, shape: Shape, *, now: datetime.datetime) -> None:
    """Write every key (0600), certificate and kubeconfig of a cluster into a new directory."""
    directory.mkdir(mode=0o700)
    authority = _issue(directory, "ca", "crannog test cluster", now=now)
    _issue(
        directory,
        "apiserver",
        "kube-apiserver",
        names=("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"),
        addresses=("127.0.0.1", SERVICE, CONTROL),
        authority=authority,
        now=now,
    )
    for file, (name, group) in _USERS.items():
        _issue(directory, file, name, group=group, authority=authority, now=now)
        _write_kubeconfig(directory, file)
    for node in shape.node_names:
        _issue(
            directory,
            node,
            f"system:node:{node}",
            group="system:nodes",
            names=(node,),
            addresses=(address_of(node),),
            authority=authority,
            now=now,
        )
        _write_kubeconfig(directory, node)
    signer = ec.generate_private_key(ec.SECP256R1())
    _write_key(directory / "service-accounts.key", signer)
    (directory / "service-accounts.pub").write_bytes(
        signer.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _issue(
    directory: Path,
    file: str,
    name: str,
    *,
    now: datetime.datetime,
    group: str = "",
    names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    authority: _Authority | None = None,
) -> _Authority:
    """A key and a certificate, by `authority` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if group:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    subject = x509.Name(attributes)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 365 * _DAY)
        .add_extension(x509.BasicConstraints(authority is None, None), critical=True)
    )
    if authority:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    others: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    others += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    if others:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
    certificate = builder.sign(authority.key if authority else key, hashes.SHA256())
    _write_key(directory / f"{file}.key", key)
    (directory / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return _Authority(key, certificate)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _write_kubeconfig(directory: Path, file: str) -> None:
    """A kubeconfig with everything in it, so that it works wherever it is read."""

    def text(name: str) -> str:
        return base64.b64encode((directory / name).read_bytes()).decode()

    path = directory / f"{file}.conf"
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "crannog",
                "clusters": [
                    {
                        "name": "crannog",
                        "cluster": {
                            "server": f"https://{CONTROL}:6443",
                            "certificate-authority-data": text("ca.crt"),
                        },
                    }
                ],
                "users": [
                    {
                        "name": file,
                        "user": {
                            "client-certificate-data": text(f"{file}.crt"),
                            "client-key-data": text(f"{file}.key"),
                        },
                    }
                ],
                "contexts": [{"name": "crannog", "context": {"cluster": "crannog", "user": file}}],
            }
        )
    )
