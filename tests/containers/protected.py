"""Sessions and protected files for container tests, made by the command line as users make them."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from crannog.testing.platform import DevelopmentPlatform
from tests.containers.rig import Engine


class Protected(NamedTuple):
    """An fspf and the ciphertext below a directory that becomes an image's root.

    Attributes:
        root: holds `fspf.pb` and `app`.
        key: of the fspf, hex.
        tag: of the fspf, hex.
    """

    root: Path
    key: str
    tag: str

    @property
    def service(self) -> dict[str, str]:
        """The service's three settings."""
        return {"fspf_path": "/fspf.pb", "fspf_key": self.key, "fspf_tag": self.tag}

    def copy(self, root: Path) -> Path:
        """A copy of the root for a test to change."""
        shutil.copytree(self.root, root, symlinks=True)
        return root


def protect(platform: DevelopmentPlatform, files: Mapping[str, str], directory: Path) -> Protected:
    """Encrypt `files`, by path below /app, as the tutorial does."""
    plain, root = directory / "plain", directory / "root"
    for path, content in files.items():
        file = plain / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (root / "app").mkdir(parents=True)
    fspf = str(root / "fspf.pb")
    platform.run("fspf", "create", fspf)
    platform.run("fspf", "addr", fspf, "/", "--not-protected", "--kernel", "/")
    platform.run("fspf", "addr", fspf, "/app", "--encrypted", "--kernel", "/app")
    platform.run("fspf", "addf", fspf, "/app", str(plain), str(root / "app"))
    words = platform.run("fspf", "encrypt", fspf).split()
    (root / "fspf.pb").chmod(0o644)
    return Protected(root, words[10], words[8])


def measured(engine: Engine, image: str) -> str:
    """The MRENCLAVE of an image's program, as the tutorial asks for it."""
    return engine.run(image, options=["--env=SCONE_HASH=1"]).stdout.strip()


def create_session(
    platform: DevelopmentPlatform, service: Mapping[str, object], **document: object
) -> str:
    """Create a session of a fresh name with one service; the configuration id."""
    name = f"test-{uuid.uuid4().hex}"
    text = yaml.safe_dump(
        {"name": name, "version": "0.2", "services": [{"name": "app", **service}], **document}
    )
    platform.create_session(text)
    return f"{name}/app"


def image_of(engine: Engine, base: str, root: Path, tag: str) -> str:
    """An image with `root` over `base`, as the tutorial's Dockerfile makes it."""
    (root.parent / f"{root.name}.Dockerfile").write_text(
        f'FROM {base}\nCOPY {root.name} /\nCMD ["python3"]\n'
    )
    file = root.parent / f"{root.name}.Dockerfile"
    return engine.build(root.parent, tag, f"--file={file}")
