"""Write the vectors of docs/formats/launcher.md: one fact each. Independent of the package."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
LABEL = b"crannog launcher directory v1\n"
Entry = dict[str, str]


def directory(path: str, mode: str = "755") -> Entry:
    return {"path": path, "kind": "directory", "mode": mode}


def file(path: str, content: bytes = b"", mode: str = "644") -> Entry:
    return {"path": path, "kind": "file", "mode": mode, "content": content.hex()}


def link(path: str, target: str) -> Entry:
    return {"path": path, "kind": "link", "target": target.encode().hex()}


def canonical(entries: list[Entry]) -> bytes:
    counted = [entry for entry in entries if entry["path"] != "digest"]
    out = LABEL + struct.pack(">I", len(counted))
    for entry in sorted(counted, key=lambda each: each["path"].encode()):
        kind = ("directory", "file", "link").index(entry["kind"]) + 1
        path = entry["path"].encode()
        out += struct.pack(">BHI", kind, int(entry.get("mode", "0"), 8), len(path)) + path
        if kind == 2:
            content = bytes.fromhex(entry["content"])
            out += struct.pack(">Q", len(content)) + hashlib.sha256(content).digest()
        if kind == 3:
            target = bytes.fromhex(entry["target"])
            out += struct.pack(">I", len(target)) + target
    return out


def vector(name: str, *entries: Entry) -> None:
    data = canonical(list(entries))
    write(
        name,
        {
            "entries": list(entries),
            "canonical": data.hex(),
            "digest": hashlib.sha256(data).hexdigest(),
        },
    )


def write(name: str, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    vector("empty")
    vector("one-file", file("run", b"\x7fELF", "755"))
    vector("empty-file", file("a"))
    vector("loader-mode", directory("lib"), file("lib/ld.so", b"\x7fELF", "711"))
    vector("set-user-id", file("run", b"\x7fELF", "4755"))
    vector("empty-directory", directory("lib"))
    vector("link", link("lib", "usr/lib"))
    vector("order", directory("a"), file("a/b"), file("a.b"), file("a-b"))
    vector("not-ascii", file("grüße"))
    vector("own-digest-left-out", file("a"), file("digest", b"0" * 64 + b"\n"))
    vector("digest-below-counts", directory("etc"), file("etc/digest", b"0" * 64 + b"\n"))
    write("pipe", {"entries": [{"path": "p", "kind": "pipe"}], "error": "misconfigured"})


if __name__ == "__main__":
    main()
