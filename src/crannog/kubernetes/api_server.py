"""The cluster's API server as a pod's service account sees it: one PATCH, over https.

Decides how it is found, trusted and spoken to. No client library: the one call that is needed is a
request with a token (ADR 1014).
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from crannog.errors import Denied, FormatError, Misconfigured, NotFound, Refused, Unavailable
from crannog.wire import Json, encode_json, parse_object

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 10.0
_MAX_ANSWER = 4 << 20
_MAX_TOKEN = 64 << 10
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is, and who we are to it.

    Attributes:
        host: its name or address.
        port: its port.
        account: a directory with `token` and `ca.crt`, as every pod has one. Both are read for
            each call, since the kubelet replaces them.
    """

    host: str
    port: int
    account: Path

    def patch_node(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set the labels of node `name`, and take away those that are None.

        Raises:
            Unavailable: it does not answer, or says that it cannot now.
            Denied: the service account may not.
            NotFound: there is no such node.
            Refused: it says something else.
            Misconfigured: token or certificate cannot be read.
        """
        values: dict[str, Json] = dict(labels)
        body = encode_json({"metadata": {"labels": values}})
        status, answer = self._request("PATCH", f"/api/v1/nodes/{quote(name, safe='')}", body)
        if 200 <= status < 300:
            return
        said = _message(answer)
        what = f"labels of node {name}: "
        if status in {401, 403}:
            raise Denied(
                f"{what}the API server refuses: {said}",
                hint="the plugin's service account needs `patch` on nodes; labelNodes=false does "
                "without",
            )
        if status == 404:
            raise NotFound(
                f"{what}there is no such node", hint="NODE_NAME is to be spec.nodeName of the pod"
            )
        if status == 429 or status >= 500:
            raise Unavailable(f"{what}the API server answers {status}: {said}")
        raise Refused(f"{what}the API server answers {status}: {said}")

    def _request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": _MERGE,
            "Accept": "application/json",
            "User-Agent": "crannog-device-plugin",
        }
        where = f"API server {self.host}:{self.port}"
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=_SECONDS, context=self._context()
        )
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER)
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"{where}: its certificate is not valid: {error.verify_message}",
                hint=f"it is checked against {self.account / 'ca.crt'}",
            ) from error
        except OSError as error:
            raise Unavailable(f"{where}: {(error.strerror or 'timed out').lower()}") from error
        except http.client.HTTPException as error:
            raise Unavailable(f"{where} does not speak HTTP: {type(error).__name__}") from error
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        path = self.account / "ca.crt"
        try:
            context = ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"{path} holds no certificates that can be read") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _token(self) -> str:
        path = self.account / "token"
        try:
            with path.open("rb") as file:
                token = file.read(_MAX_TOKEN).strip()
        except OSError as error:
            raise Misconfigured(
                f"{path}: {(error.strerror or 'cannot be read').lower()}",
                hint="the pod needs its service account's token mounted; labelNodes=false does "
                "without",
            ) from error
        if not token or not token.isascii() or not token.decode().isprintable():
            raise Misconfigured(f"{path} holds no token")
        return token.decode()


def find_api_server(environment: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> ApiServer:
    """The API server of the cluster that this pod is in.

    Raises:
        Misconfigured: this is no pod.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise Misconfigured(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set as in a pod",
            hint="labels of the node can be set from a pod only; leave --label-node away",
        )
    return ApiServer(host, int(port), account)


def _message(answer: bytes) -> str:
    try:
        said = parse_object(answer, limit=_MAX_ANSWER, what="answer").get("message")
    except FormatError:
        return "it does not say why"
    return said[:300] if isinstance(said, str) and said.isprintable() else "it does not say why"
