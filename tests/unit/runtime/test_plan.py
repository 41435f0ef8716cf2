from __future__ import annotations

import pytest

from crannog.errors import Misconfigured
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.measure.mrenclave import ProgramSettings
from crannog.measure.program import Measurement
from crannog.measure.root import FileIdentity
from crannog.runtime.plan import (
    Start,
    attested_program,
    choose,
    ends_at_once,
    plain_program,
)
from crannog.runtime.settings import DirectFspf, Settings, parse_config_id

FSPF = DirectFspf("/x", bytes(32), bytes(16))
CONFIG = parse_config_id("session/service")


def measurement(program: str = "/usr/bin/python3", prefix: tuple[str, ...] = ()) -> Measurement:
    identity = FileIdentity(1, 2, 3, 4, 5)
    executable = prefix[0] if prefix else program
    return Measurement(
        "00" * 32, program, executable, identity, prefix, (), (), (), (), ProgramSettings(), True
    )


def configuration(*argv: str, pwd: str = "/", **environment: str) -> Configuration:
    return Configuration(
        argv, tuple(environment.items()), pwd, (), None, "00" * 32, Level.SIMULATION, bytes(32)
    )


@pytest.mark.parametrize("pid", [1, 100])
@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (Settings(hash_only=True, config_id=CONFIG), Start.HASH),
        (Settings(hash_only=True, cas="x"), Start.HASH),
        (Settings(config_id=CONFIG), Start.ATTESTED),
        (Settings(config_id=CONFIG, cas="x", fspf=FSPF), Start.ATTESTED),
        (Settings(fspf=FSPF), Start.SHIELDED),
    ],
)
def test_choice_does_not_depend_on_the_process_id(
    settings: Settings, start: Start, pid: int
) -> None:
    assert choose(settings, pid=pid) is start


def test_only_an_unattested_program_that_is_not_pid_one_takes_our_place() -> None:
    assert choose(Settings(), pid=2) is Start.IN_PLACE
    assert choose(Settings(), pid=1) is Start.CHILD


def test_cas_without_configuration_id_is_never_a_plain_start() -> None:
    with pytest.raises(Misconfigured, match="SCONE_CONFIG_ID"):
        choose(Settings(cas="cas"), pid=2)


def test_argv_and_environment_are_the_sessions() -> None:
    program = attested_program(
        configuration("python3", "/app/server.py", pwd="/app", GREETING="hello"), measurement()
    )
    assert program.argv == ("/usr/bin/python3", "/app/server.py")
    assert program.environment == {
        "GREETING": "hello",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
    }
    assert program.pwd == "/app"
    assert program.warnings == ()


def test_path_and_home_of_the_session_stay() -> None:
    found = attested_program(configuration("python3", PATH="/x", HOME="/h"), measurement())
    assert (found.environment["PATH"], found.environment["HOME"]) == ("/x", "/h")


def test_python_with_a_home_of_its_own_runs_nothing_from_its_users_site_directory() -> None:
    found = attested_program(configuration("python3", HOME="/h"), measurement())
    assert found.environment["PYTHONNOUSERSITE"] == "1"
    found = attested_program(configuration("python3"), measurement())
    assert "PYTHONNOUSERSITE" not in found.environment
    wanted = configuration("python3", HOME="/h", PYTHONNOUSERSITE="")
    assert attested_program(wanted, measurement()).environment["PYTHONNOUSERSITE"] == ""


def test_argv0_with_a_slash_stays_and_is_said() -> None:
    measured = measurement("/usr/sbin/nginx")._replace(python=False)
    found = attested_program(configuration("/opt/nginx", "x"), measured)
    assert found.argv == ("/opt/nginx", "x")
    assert found.warnings


def test_python_is_called_what_was_measured_whatever_path_the_session_names() -> None:
    # What lies beside the session's path (pyvenv.cfg, a library above it) was not measured.
    found = attested_program(configuration("/opt/venv/bin/python3", "x"), measurement())
    assert found.argv == ("/usr/bin/python3", "x")
    assert "/opt/venv/bin/python3" in found.warnings[0]


def test_the_name_of_the_front_is_not_worth_a_word() -> None:
    measured = measurement("/usr/libexec/crannog/python3.11")
    for name in ("python3", "/usr/bin/python3", "/usr/bin/python3.11"):
        found = attested_program(configuration(name, "x"), measured)
        assert (found.argv, found.warnings) == (("/usr/libexec/crannog/python3.11", "x"), ())


def test_a_script_named_by_its_path_is_run_by_the_measured_python() -> None:
    found = attested_program(configuration("/usr/local/bin/gunicorn", "app:app"), measurement())
    assert found.argv == ("/usr/bin/python3", "/usr/local/bin/gunicorn", "app:app")
    assert found.warnings == ()


def test_a_script_without_its_path_is_said() -> None:
    found = attested_program(configuration("gunicorn", "app:app"), measurement())
    assert "named by its path" in found.warnings[0]


def test_command_that_names_another_program_is_said() -> None:
    found = attested_program(configuration("sh", "-c", "x"), measurement())
    assert found.argv == ("/usr/bin/python3", "-c", "x")
    assert "'sh'" in found.warnings[0]


def test_another_spelling_of_the_version_is_not_worth_a_word() -> None:
    found = attested_program(configuration("python3", "x"), measurement("/usr/bin/python3.11"))
    assert (found.argv, found.warnings) == (("/usr/bin/python3.11", "x"), ())


def test_script_is_given_to_its_interpreter() -> None:
    measured = measurement("/app/run", ("/usr/bin/python3", "-I", "/app/run"))
    found = attested_program(configuration("run", "a"), measured)
    assert found.argv == ("/usr/bin/python3", "-I", "/app/run", "a")


def test_session_may_not_set_the_configuration_id() -> None:
    with pytest.raises(Misconfigured, match="SCONE_CONFIG_ID"):
        attested_program(configuration("python3", SCONE_CONFIG_ID="a/b"), measurement())


def test_empty_command_is_refused() -> None:
    with pytest.raises(Misconfigured, match="empty"):
        attested_program(configuration(), measurement())


def test_plain_program_is_as_given() -> None:
    found = plain_program(["sh", "-c", "x"], {"SCONE_HEAP": "1G"}, None)
    assert found == (("sh", "-c", "x"), {"SCONE_HEAP": "1G"}, None, ())


@pytest.mark.parametrize("name", ["python3", "/usr/bin/python3.11", "node", "bash"])
def test_interpreter_without_anything_to_do(name: str) -> None:
    assert ends_at_once([name], input_is_null=True)
    assert not ends_at_once([name], input_is_null=False)
    assert not ends_at_once([name, "x"], input_is_null=True)


def test_other_programs_are_left_alone() -> None:
    assert not ends_at_once(["/usr/sbin/nginx"], input_is_null=True)
