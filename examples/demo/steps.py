"""The demo's steps: the tutorial's four programs, then three refusals."""

from __future__ import annotations

import re
from pathlib import Path

from examples.demo.platform import Failed, Platform, Program, free_port
from examples.demo.servers import SERVER, SERVER_TLS

REFUSED = 78


def run_programs(platform: Platform) -> None:
    """Hello World, attested, with TLS, and with encrypted source code."""
    app = platform.directory / "app"
    app.mkdir()
    (app / "server.py").write_text(SERVER)
    (app / "server-tls.py").write_text(SERVER_TLS)
    _hello_world(platform, app)
    platform.mrenclave = platform.measure()
    _attested(platform, app)
    _tls(platform, app)
    _encrypted(platform, app)


def run_refusals(platform: Platform) -> None:
    """A wrong measurement, a flipped bit, a stale tag: each says what was found and expected."""
    _wrong_measurement(platform)
    _flipped_bit(platform)
    _stale_tag(platform)


def _hello_world(platform: Platform, app: Path) -> None:
    platform.narrator.chapter("Hello World! with the host's environment")
    port = free_port()
    program = platform.start(
        [str(app / "server.py"), str(port)],
        {"GREETING": "howdy!"},
        port=port,
        shown="GREETING='howdy!' crannog run -- python3 app/server.py",
    )
    _expect_greeting(platform, program, "howdy!", tls=False)


def _attested(platform: Platform, app: Path) -> None:
    platform.narrator.chapter("Hello World! with remote attestation")
    port = free_port()
    name = f"{platform.namespace}~hello-k8s-scone"
    _create(
        platform,
        f"""\
name: {name}
version: "0.2"

services:
   - name: application
     mrenclaves: [{platform.mrenclave}]
     command: python3 {app}/server.py {port}
     pwd: /
     environment:
        GREETING: hello from SCONE!!!
""",
    )
    program = platform.start(
        ["/ignored.py"],
        {"GREETING": "the host's greeting", **platform.attested(name)},
        port=port,
        shown=f'GREETING="the host\'s greeting" SCONE_CONFIG_ID={name}/application'
        " crannog run -- python3 /ignored.py",
    )
    _expect_greeting(platform, program, "hello from SCONE!!!", tls=False)


def _tls(platform: Platform, app: Path) -> None:
    platform.narrator.chapter("TLS with a certificate and key that the CAS generated")
    port = free_port()
    name = f"{platform.namespace}~hello-k8s-scone-tls-certs"
    greeting = "hello from SCONE with TLS and auto-generated certs!!!"
    _create(platform, _tls_session(platform, name, f"{app}/server-tls.py {port}", greeting))
    program = platform.start(
        [],
        platform.attested(name),
        port=port,
        shown=f"SCONE_CONFIG_ID={name}/application crannog run -- python3",
    )
    _expect_greeting(platform, program, greeting, tls=True)


def _encrypted(platform: Platform, app: Path) -> None:
    platform.narrator.chapter("The same program, its source code encrypted")
    key, tag = protect(platform, app, platform.directory / "app_image")
    source = (platform.directory / "app_image" / "app" / "server-tls.py").read_bytes()
    platform.narrator.check(
        "the file on disk is not the source code",
        source,
        lambda data: b"HTTPServer" not in data and len(data) == len(SERVER_TLS.encode()),
        "ciphertext of the same length",
    )
    port = free_port()
    name = f"{platform.namespace}~hello-k8s-scone-tls"
    greeting = "hello from SCONE with encrypted source code and auto-generated certs!!!"
    _create_encrypted(platform, name, greeting, port, key, tag)
    program = platform.start(
        [],
        platform.attested(name),
        port=port,
        shown=f"SCONE_CONFIG_ID={name}/application crannog run -- python3",
    )
    _expect_greeting(platform, program, greeting, tls=True)


def _wrong_measurement(platform: Platform) -> None:
    platform.narrator.chapter("Refused: a program with another measurement")
    name = f"{platform.namespace}~wrong-measurement"
    wrong = "0" * 64
    _create(
        platform,
        f"""\
name: {name}
version: "0.2"
services:
   - name: application
     mrenclaves: [{wrong}]
     command: python3 -c pass
""",
    )
    program = platform.start(
        [],
        platform.attested(name),
        port=0,
        shown=f"SCONE_CONFIG_ID={name}/application crannog run -- python3",
    )
    _expect_refusal(platform, program, f"MRENCLAVE, {platform.mrenclave}")


def _flipped_bit(platform: Platform) -> None:
    platform.narrator.chapter("Refused: one flipped bit in the ciphertext")
    path = platform.directory / "app_image" / "app" / "server-tls.py"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    name = f"{platform.namespace}~hello-k8s-scone-tls"
    program = platform.start(
        [],
        platform.attested(name),
        port=0,
        shown=f"SCONE_CONFIG_ID={name}/application crannog run -- python3",
    )
    _expect_refusal(platform, program, "/app/server-tls.py")


def _stale_tag(platform: Platform) -> None:
    platform.narrator.chapter("Refused: an fspf that is not the one of the session")
    old = (platform.directory / "app_image" / "fspf.pb").read_bytes()
    key, tag = protect(platform, platform.directory / "app", platform.directory / "app_image")
    name = f"{platform.namespace}~stale-tag"
    _create_encrypted(platform, name, "never said", free_port(), key, tag)
    (platform.directory / "app_image" / "fspf.pb").write_bytes(old)
    platform.narrator.say("(the older fspf.pb is put back in the place of the new one)")
    program = platform.start(
        [],
        platform.attested(name),
        port=0,
        shown=f"SCONE_CONFIG_ID={name}/application crannog run -- python3",
    )
    _expect_refusal(platform, program, tag)


def protect(platform: Platform, app: Path, image: Path) -> tuple[str, str]:
    """The tutorial's `scone fspf` block; the key and the tag as its awk lines take them."""
    if image.exists():
        for path in sorted(image.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    (image / "app").mkdir(parents=True)
    fspf = str(image / "fspf.pb")
    platform.crannog("fspf", "create", fspf)
    platform.crannog("fspf", "addr", fspf, "/", "--not-protected", "--kernel", "/")
    platform.crannog("fspf", "addr", fspf, "/app", "--encrypted", "--kernel", str(image / "app"))
    platform.crannog("fspf", "addf", fspf, "/app", str(app), str(image / "app"))
    fields = platform.crannog("fspf", "encrypt", fspf).split()
    return fields[10], fields[8]


def _create_encrypted(
    platform: Platform, name: str, greeting: str, port: int, key: str, tag: str
) -> None:
    session = _tls_session(platform, name, f"/app/server-tls.py {port}", greeting)
    fspf = f"""\
     fspf_path: {platform.directory}/app_image/fspf.pb
     fspf_key: {key}
     fspf_tag: {tag}

images:"""
    _create(platform, session.replace("\nimages:", fspf))


def _tls_session(platform: Platform, name: str, script: str, greeting: str) -> str:
    return f"""\
name: {name}
version: "0.2"

services:
   - name: application
     image_name: application_image
     mrenclaves: [{platform.mrenclave}]
     command: python3 {script}
     pwd: /
     environment:
        GREETING: {greeting}

images:
   - name: application_image
     injection_files:
       - path:  /app/cert.pem
         content: $$SCONE::SERVER_CERT.crt$$
       - path: /app/key.pem
         content: $$SCONE::SERVER_CERT.key$$

secrets:
   - name: SERVER_CERT
     kind: x509
"""


def _create(platform: Platform, text: str) -> None:
    path = platform.directory / "session.yaml"
    path.write_text(text)
    platform.narrator.output(re.sub(r"fspf_key: .*", "fspf_key: (64 hex digits)", text))
    digest = platform.crannog("session", "create", str(path)).strip()
    platform.narrator.output(digest)
    platform.narrator.check(
        "the session's hash comes back",
        digest,
        lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None,
        "64 hex digits",
    )


def _expect_greeting(platform: Platform, program: Program, greeting: str, *, tls: bool) -> None:
    expected = f"Hello World!\n$GREETING is: {greeting}\n"
    scheme = "-k https://" if tls else ""
    platform.narrator.command(f"curl {scheme}localhost:{program.port}")
    try:
        reply = program.ask(tls=tls)
    except Failed as failed:
        platform.narrator.output(str(failed))
        platform.narrator.check("the program serves", "no reply", lambda _: False, expected)
        return
    platform.narrator.output(reply)
    platform.narrator.check(
        "the reply is exactly the tutorial's", reply, lambda text: text == expected, repr(expected)
    )
    platform.stop(program)


def _expect_refusal(platform: Platform, program: Program, names: str) -> None:
    status = program.wait()
    log = program.log()
    platform.narrator.output(log)
    platform.narrator.check(
        "the launcher refuses", status, lambda code: code == REFUSED, f"status {REFUSED}"
    )
    platform.narrator.check(
        "and says what was found", log, lambda text: names in text, f"a message with {names}"
    )
    platform.narrator.check(
        "no traceback", log, lambda text: "Traceback" not in text, "a message for users"
    )
