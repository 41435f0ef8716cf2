from __future__ import annotations

from images.artifacts_wheels import Extras, _without, names, requirements

TEXT = """\
cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\
    --hash=sha256:00 \\
    --hash=sha256:01
h11==0.16.0 \\
    --hash=sha256:02
"""


def test_names_of_requirements() -> None:
    assert names(TEXT) == ("cffi", "h11")


def test_what_is_there_already_is_left_out_with_its_hashes() -> None:
    assert _without(TEXT, ("cffi",)) == "h11==0.16.0 \\\n    --hash=sha256:02\n"


def test_the_lock_file_gives_every_package_a_hash() -> None:
    launcher, services, everything = (requirements(extras) for extras in Extras)
    assert {"cryptography", "pyopenssl"} <= set(names(launcher)) < set(names(services))
    assert set(names(everything)) == {*names(services), "grpcio"}
    for text in (launcher, services, everything):
        assert "crannog" not in names(text)
        for name in names(text):
            _, _, rest = text.partition(f"{name}==")
            assert rest.splitlines()[1].startswith("    --hash=sha256:")
