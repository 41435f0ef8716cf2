"""Writes the vectors of this directory; the same every time.

Run: python -m vectors.base_fspf.generate. Nothing of `crannog` is used.
"""

from __future__ import annotations

from pathlib import Path

from vectors.fspf.generate import CHUNK, assemble, digests, header, record, region, text

HERE = Path(__file__).parent
TREE = b"/usr/lib/python3.11"
CONTENT = b"name = 'posix'\n"
OTHER, AUTHENTICATED, ENCRYPTED = 1, 2, 3

Vector = dict[str, object]


def fspf(
    regions: list[bytes], directories: list[bytes] | None = None, files: list[bytes] | None = None
) -> bytes:
    """A plain fspf; its files all have one content and are authenticated."""
    kinds = {path[1:]: False for path in directories or []} | {
        path[1:]: True for path in files or []
    }
    tags = digests(CONTENT)
    records, offset = [], 0
    for path in sorted(kinds):
        if kinds[path]:
            records.append(
                record(
                    1,
                    protection=AUTHENTICATED,
                    mode=0o644,
                    chunk=CHUNK,
                    size=len(CONTENT),
                    offset=offset,
                )
            )
            offset += len(tags)
        else:
            records.append(record(2, offset=offset))
    count = sum(kinds.values())
    return header(0) + assemble(regions, records, sorted(kinds), tags * count)


def vector(
    fact: str,
    expect: str,
    base: bytes,
    *,
    session: bytes | None = None,
    paths: dict[bytes, str] | None = None,
) -> Vector:
    """One fact."""
    found: Vector = {"fact": fact, "expect": expect, "base": base.hex()}
    if session is not None:
        found["session"] = session.hex()
    if expect == "success":
        found["paths"] = {path.hex(): what for path, what in (paths or {}).items()}
    return found


def vectors() -> dict[str, Vector]:
    """All vectors by name."""
    tree = region(TREE, AUTHENTICATED)
    root = region(b"/", OTHER)
    sites = TREE + b"/site-packages"
    base = fspf([tree], [TREE, sites], [TREE + b"/os.py"])
    usual = {
        TREE: "base directory",
        TREE + b"/os.py": "base file",
        TREE + b"/added.py": "base absent",
        sites: "other",
        sites + b"/x.py": "other",
        b"/app/server.py": "other",
        TREE + b"x/os.py": "other",
    }

    def session(*regions: bytes, directories: list[bytes] | None = None) -> bytes:
        return fspf(sorted([root, *regions], key=lambda each: each[12:]), directories)

    inside = TREE + b"/encodings"
    second = b"/usr/lib64/python3.11"
    return {
        "one-tree": vector("a library and its open directory", "success", base, paths=usual),
        "session-root": vector(
            "a session's `/`, not protected", "success", base, session=session(), paths=usual
        ),
        "session-above": vector(
            "an encrypted region above does not reach into the library",
            "success",
            base,
            session=session(region(b"/usr", ENCRYPTED), directories=[b"/usr"]),
            paths=usual,
        ),
        "session-in-open": vector(
            "the open directory is the session's to protect",
            "success",
            base,
            session=session(region(sites, ENCRYPTED), directories=[sites]),
            paths=usual,
        ),
        "session-same": vector(
            "a region of the session in the base's place",
            "misconfigured",
            base,
            session=session(region(TREE, ENCRYPTED), directories=[TREE]),
        ),
        "session-inside": vector(
            "a region of the session inside it, not protected",
            "misconfigured",
            base,
            session=session(region(inside, OTHER)),
        ),
        "session-inside-encrypted": vector(
            "a region of the session inside it, encrypted",
            "misconfigured",
            base,
            session=session(region(inside, ENCRYPTED), directories=[inside]),
        ),
        "not-listed": vector(
            "site-packages that is not listed does not exist",
            "success",
            fspf([tree], [TREE]),
            paths={sites: "base absent", sites + b"/x.py": "base absent"},
        ),
        "deeper": vector(
            "the name means nothing deeper in the library",
            "success",
            fspf([tree], [TREE, inside, inside + b"/site-packages"]),
            paths={inside + b"/site-packages": "base directory"},
        ),
        "two-trees": vector(
            "two libraries, and the `/` that two regions need",
            "success",
            fspf([root, tree, region(second, AUTHENTICATED)], [TREE, second]),
            paths={TREE: "base directory", second: "base directory", b"/usr/lib64": "other"},
        ),
        "two-trees-without-root": vector(
            "several regions without `/`",
            "malformed",
            fspf([tree, region(second, AUTHENTICATED)], [TREE, second]),
        ),
        "encrypted": vector(
            "an encrypted region", "malformed", fspf([region(TREE, ENCRYPTED)], [TREE])
        ),
        "not-protected": vector(
            "a region below `/` that is not protected", "malformed", fspf([region(TREE, OTHER)])
        ),
        "authenticated-root": vector(
            "an authenticated `/`", "malformed", fspf([region(b"/", AUTHENTICATED)], [b"/"])
        ),
        "open-and-listed": vector(
            "something listed in the open directory",
            "malformed",
            fspf([tree], [TREE, sites], [sites + b"/x.py"]),
        ),
    }


def main() -> None:
    """Write every file, and remove those that are no more."""
    found = vectors()
    for old in HERE.glob("*.json"):
        if old.stem not in found:
            old.unlink()
    for name, value in found.items():
        (HERE / f"{name}.json").write_text(text(value), encoding="utf-8")


if __name__ == "__main__":
    main()
