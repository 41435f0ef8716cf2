from __future__ import annotations

import shutil
from pathlib import Path

import crannog
from crannog.measure.launcher import launcher_digest

PACKAGE = Path(crannog.__file__).parent


def copy(tmp_path: Path) -> Path:
    target = tmp_path / "crannog"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_same_files_elsewhere_give_the_same(tmp_path: Path) -> None:
    one, other = copy(tmp_path / "a"), copy(tmp_path / "b")
    assert launcher_digest(str(one)) == launcher_digest(str(other))


def test_changed_added_or_renamed_file_changes_it(tmp_path: Path) -> None:
    target = copy(tmp_path)
    seen = {launcher_digest(str(target))}
    with (target / "runtime" / "plan.py").open("a") as file:
        file.write("\n")
    seen.add(launcher_digest(str(target)))
    (target / "measure" / "extra.py").write_text("")
    seen.add(launcher_digest(str(target)))
    (target / "measure" / "extra.py").rename(target / "measure" / "other.py")
    seen.add(launcher_digest(str(target)))
    assert len(seen) == 4


def test_the_cas_is_not_part_of_it(tmp_path: Path) -> None:
    target = copy(tmp_path)
    before = launcher_digest(str(target))
    shutil.rmtree(target / "cas")
    assert launcher_digest(str(target)) == before


def test_everything_the_launcher_imports_is_part_of_it() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "import crannog.runtime.command, crannog.runtime.launch, crannog.runtime.attest\n"
        "import crannog.runtime.spawn, crannog.measure.program, crannog.evidence.statement\n"
        "import crannog.shield.fspf, crannog.runtime.supervisor.run\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('crannog.')})\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from crannog.measure.launcher import MODULES, PACKAGES

    assert set(out.stdout.split()) <= {*PACKAGES, *MODULES}
