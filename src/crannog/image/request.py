"""What a user asks `image encrypt` to protect, and what no image could make right.

Decides about paths alone. Whether an image has them, and what lies there, is `check`'s question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crannog.errors import Misconfigured
from crannog.shield.model import CHUNK_LENGTH, Protection, Region
from crannog.shield.paths import canonical, is_below, printable
from crannog.shield.regions import RegionMap

# What has to be readable before there is a key: loaders, libraries, launchers, and what changes
# loading. Encrypting it, or anything above it, would leave nothing to be measured.
_LOADED = (
    *(b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc"),
    *(b"/usr/bin", b"/usr/sbin", b"/usr/lib", b"/usr/lib32", b"/usr/lib64", b"/usr/libexec"),
    *(b"/usr/local/bin", b"/usr/local/sbin", b"/usr/local/lib", b"/usr/local/libexec"),
    b"/usr/share",
)
# Of the launcher, or made by whoever runs the container: nothing at or below them is the image's.
_NOT_YOURS = (
    *(b"/dev", b"/proc", b"/sys", b"/run", b"/crannog", b"/opt/crannog"),
    *(b"/usr/libexec/crannog", b"/usr/local/libexec/crannog"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to become of which paths; absolute and canonical.

    Attributes:
        encrypt: directories whose files become ciphertext.
        authenticate: directories whose files stay as they are and are verified.
        not_protected: directories that are said to be open: copies of encrypted files may lie
            there.
        fspf: where the fspf goes.
        allowed_keys: files that may hold a key all the same.
    """

    encrypt: tuple[bytes, ...]
    authenticate: tuple[bytes, ...]
    not_protected: tuple[bytes, ...]
    fspf: bytes
    allowed_keys: tuple[bytes, ...]

    @property
    def regions(self) -> RegionMap:
        """The regions of the fspf: these, and `/`, which is as it is on disk."""
        regions = [Region(b"/", Protection.NOT_PROTECTED, b"/", 0)]
        for paths, protection in (
            (self.encrypt, Protection.ENCRYPTED),
            (self.authenticate, Protection.AUTHENTICATED),
        ):
            regions += [Region(path, protection, path, CHUNK_LENGTH) for path in paths]
        return RegionMap(regions)


def make_request(
    *,
    encrypt: Iterable[bytes],
    authenticate: Iterable[bytes] = (),
    not_protected: Iterable[bytes] = (),
    fspf: bytes = b"/fspf.pb",
    allowed_keys: Iterable[bytes] = (),
) -> Request:
    """The request for these paths.

    Raises:
        FormatError: a path that is not absolute, holds `..`; regions that overlap.
        Misconfigured: nothing to protect, `/`, what the program needs before it has a key.
    """
    request = Request(
        _paths(encrypt, "--encrypt"),
        _paths(authenticate, "--authenticate"),
        _paths(not_protected, "--not-protected"),
        canonical(fspf, "--fspf"),
        _paths(allowed_keys, "--allow-key"),
    )
    if not request.encrypt and not request.authenticate:
        raise Misconfigured("nothing is to be protected", hint="give --encrypt PATH")
    for path in request.encrypt + request.authenticate:
        _refuse_system(path, encrypted=path in request.encrypt)
    for region in request.regions:
        if region.protected and is_below(request.fspf, region.path):
            raise Misconfigured(
                f"the fspf would be {printable(request.fspf)}, in the protected"
                f" {printable(region.path)}",
                hint="it is what opens that path: choose a place outside, as /fspf.pb",
            )
    return request


def _paths(paths: Iterable[bytes], option: str) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(canonical(path, option) for path in paths))


def _refuse_system(path: bytes, *, encrypted: bool) -> None:
    if path == b"/":
        raise Misconfigured(
            "/ as a whole cannot be protected: engines put files of their own there",
            hint="name the directories of the program, for example --encrypt /app",
        )
    for place in _NOT_YOURS:
        if is_below(path, place):
            raise Misconfigured(
                f"{printable(path)} is not the image's to protect: {printable(place)} belongs to"
                " the launcher or to whoever runs the container"
            )
    if not encrypted:
        return
    for place in _LOADED + _NOT_YOURS:
        if is_below(place, path):
            raise Misconfigured(
                f"{printable(path)} holds {printable(place)}, which is measured or loaded before"
                " there is a key: encrypted, nothing could be measured",
                hint="encrypt the program's own files, for example --encrypt /app;"
                f" or let it be readable: --authenticate {printable(path)}",
            )
