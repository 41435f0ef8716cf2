"""A start from beginning to end, as design section 2 has it, once the way has been chosen.

Decides the order: measure, attest, take the configuration, build the world, run. Leaves each step
to its module. Nothing heavy is imported before the way that needs it is taken.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from crannog.errors import Misconfigured, StorageFailed, Unsupported
from crannog.runtime.find import executed, find_program
from crannog.runtime.log import Log
from crannog.runtime.plan import Start, ends_at_once, plain_program
from crannog.runtime.settings import Mode, Settings

if TYPE_CHECKING:
    from crannog.exchange.configuration import Configuration
    from crannog.measure.program import Measurement
    from crannog.measure.root import Root
    from crannog.runtime.plan import Program
    from crannog.runtime.supervisor.world import World

_NULL = os.makedev(1, 3)  # by its number: /dev is the image's
_FSPF_LIMIT = 1 << 30  # bytes; 100,000 files have about 30 MiB


def announce_mode(settings: Settings, log: Log, *, attested: bool = False) -> None:
    """Say which level this start can have; fail for SCONE_MODE=hw, which no machine here can be.

    What an attested start in mode auto is worth only shows when it is configured, and is said then.

    Raises:
        Unsupported: hardware was asked for.
    """
    match settings.mode:
        case Mode.HW:
            log.warn("No TEE driver is used by this version, won't be able to run in hw mode")
            raise Unsupported(
                "Could not create enclave builder: Error opening SGX device",
                hint="SCONE_MODE=hw needs hardware evidence, which this version does not make; "
                "SCONE_MODE=sim or auto runs at level simulation, which proves nothing",
            )
        case Mode.SIM:
            log.warn(
                "Application runs in simulation mode. Its memory can be read by the untrusted "
                "system! This is not secure! Simulation proves nothing"
            )
        case Mode.AUTO if not attested:
            log.warn(
                "SCONE_MODE is auto: a start without a configuration id is of level simulation, "
                "which protects against nothing"
            )
        case Mode.AUTO:
            pass


def print_hash(settings: Settings, argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """SCONE_HASH=1: 64 hex digits and a newline on stdout; nothing is run and nobody is asked."""
    measurement, root = _measure(settings, find_program(argv[0], environment))
    root.close()
    try:
        os.write(1, measurement.mrenclave.encode() + b"\n")
    except OSError as error:
        raise StorageFailed(f"cannot write to standard output: {error.strerror}") from error
    return 0


def start_plain(
    settings: Settings, start: Start, argv: Sequence[str], environment: Mapping[str, str], log: Log
) -> int:
    """Unattested: in the launcher's place, or as its child where it is PID 1.

    The host's whole environment passes, SCONE_* included, as in the reference.
    """
    path = find_program(argv[0], environment)
    announce_mode(settings, log)
    _print_version_of(settings, path, log)
    reason = ends_at_once(argv, input_is_null=_input_is_null())
    if reason is not None:
        log.warn(reason)
    from crannog.runtime.spawn import run_child, run_in_place

    program = plain_program(argv, environment, None)
    if start is Start.IN_PLACE:
        run_in_place(executed(path), program)
    return run_child(program, executed(path))


def start_shielded(
    settings: Settings, argv: Sequence[str], environment: Mapping[str, str], log: Log
) -> int:
    """Unattested under the file shield: SCONE_FSPF and its companions, for debugging."""
    from crannog.runtime.descriptors import close_inherited

    forbid_dumps()
    close_inherited()
    path = find_program(argv[0], environment)
    announce_mode(settings, log)
    direct = settings.fspf
    if direct is None:
        raise ValueError("no fspf")
    log.warn(
        "SCONE_FSPF, SCONE_FSPF_KEY and SCONE_FSPF_TAG are for debugging: whoever can read this "
        "environment can read the protected files"
    )
    _print_version_of(settings, path, log)
    from crannog.measure.program import native_files
    from crannog.measure.root import Root

    root = Root("/")
    # Nobody is told a hash, so nothing is hashed.
    natives = native_files(root, path)
    from crannog.shield.fspf import open_fspf

    sealed = root.read(direct.path, limit=_FSPF_LIMIT)
    if sealed is None:
        raise Misconfigured(f"SCONE_FSPF: {direct.path} is not there, or not a regular file")
    fspf = open_fspf(sealed, key=direct.key, tag=direct.tag)
    from crannog.runtime.supervisor.world import World

    world = World(
        fspf=fspf,
        allow_dlopen=settings.allow_dlopen,
        measured=natives.native,
    )
    root.close()
    program = plain_program(argv, environment, natives)
    return _run_shielded(program._replace(pwd=os.getcwd()), natives.executable, world)


def start_attested(
    settings: Settings, argv: Sequence[str], environment: Mapping[str, str], log: Log
) -> int:
    """Measure, attest, take the configuration, run the session's program as a child (A)."""
    from crannog.runtime.descriptors import close_inherited

    forbid_dumps()
    close_inherited()
    announce_mode(settings, log, attested=True)
    if settings.fspf is not None:
        log.warn("SCONE_FSPF is not heeded: an attested program's protected files come from CAS")
    path = find_program(argv[0], environment)
    from crannog.runtime.ahead import Ahead

    measuring = Ahead(lambda: _measure_and_locate(settings, path))
    try:
        # While the files are hashed: these take as long.
        from crannog.measure.launcher import own_digest
        from crannog.runtime.attest import get_configuration
        from crannog.runtime.plan import attested_program
        from crannog.runtime.witness import Proof
    finally:
        measurement, root, foreign = measuring.result()
    if settings.version:
        print_version(settings, measurement.mrenclave, log)
    log.info(f"measured {measurement.program}: {measurement.mrenclave}")
    for entry in measurement.entries:
        digest = "absent" if entry.digest is None else entry.digest.hex()
        log.debug(f"measured {entry.role.name.lower()} {entry.path}: {digest}")
    if foreign:
        log.info(f"measured {foreign} is not on the mount of the root directory")
    proof = Proof(bytes.fromhex(measurement.mrenclave), own_digest(), foreign)
    configuration = get_configuration(settings, proof, log)
    program = attested_program(configuration, measurement)
    for warning in program.warnings:
        log.warn(warning)
    world = attested_world(configuration, settings, measurement, root)
    from crannog.runtime.spawn import open_measured, run_child

    if world is not None:
        # A last look: the CAS may have taken its time.
        os.close(open_measured(root, measurement))
        root.close()
        return _run_shielded(program, measurement.executable, world)
    return run_child(program, open_measured(root, measurement))


def attested_world(
    configuration: Configuration, settings: Settings, measurement: Measurement, root: Root
) -> World | None:
    """What the program sees over the disk, or None where nothing needs the file shield.

    SCONE_ALLOW_DLOPEN below 2 needs it (A): what is loaded natively is looked at as it is mapped.
    So does an image's base fspf (A), whose bytes are those that were measured.

    Raises:
        Misconfigured: the session's fspf is not there, or a file is injected over what was
            measured.
        IntegrityError: it is not the one whose tag the session names.
    """
    _keep_measured(configuration, measurement)
    reference = configuration.fspf
    base = measurement.base
    unseen = reference is None and not configuration.files and base is None
    if unseen and settings.allow_dlopen >= 2:
        return None
    fspf = None
    if reference is not None:
        injected = {file.path: file.content for file in configuration.files}
        sealed = injected.get(reference.path)
        if sealed is None:
            sealed = root.read(os.fsdecode(reference.path.encode("utf-8")), limit=_FSPF_LIMIT)
        if sealed is None:
            raise Misconfigured(
                f"fspf_path: {reference.path} is not there, or not a regular file",
                hint="is it in the image, and readable by the container's user?",
            )
        from crannog.shield.fspf import open_fspf

        fspf = open_fspf(sealed, key=reference.key, tag=reference.tag)
    if base is not None:
        from crannog.shield.fspf import open_plain

        opened = open_plain(base)
    from crannog.runtime.supervisor.world import InjectedFile, World

    return World(
        fspf=fspf,
        base=None if base is None else opened,
        files=tuple(
            InjectedFile(file.path.encode("utf-8"), file.content, file.mode)
            for file in configuration.files
        ),
        allow_dlopen=settings.allow_dlopen,
        measured=measurement.native,
    )


def _keep_measured(configuration: Configuration, measurement: Measurement) -> None:
    """(A) What runs is what was measured: no injected file takes its place, by whatever name."""
    measured = {(each.identity.device, each.identity.inode) for each in measurement.native}
    for file in configuration.files:
        try:
            there = os.stat(file.path.encode("utf-8"))
        except OSError:
            continue  # nothing is there that could have been measured
        if (there.st_dev, there.st_ino) in measured:
            raise Misconfigured(
                f"an injected file would take the place of {file.path}, which was measured",
                hint="inject it elsewhere, or change the image and the session's mrenclaves",
            )


def print_version(settings: Settings, mrenclave: str, log: Log) -> None:
    """SCONE_VERSION=1: the settings in the reference's form, on stderr, since stdout is not ours.

    Heap, stack, fork and mprotect are measured and not enforced, and the lines say so.
    """
    from crannog import __version__

    dlopen = ("no", "yes (protected)", "yes (unprotected)")[settings.allow_dlopen]
    for line in (
        "export SCONE_QUEUES=4",
        "export SCONE_SLOTS=256",
        "export SCONE_SIGPIPE=0",
        "export SCONE_MMAP32BIT=0",
        "export SCONE_SSPINS=100",
        "export SCONE_SSLEEP=4000",
        f"export SCONE_HEAP={settings.heap}",
        f"export SCONE_STACK={settings.stack}",
        "export SCONE_CONFIG=/etc/sgx-musl.conf",
        "export SCONE_ESPINS=10000",
        "export SCONE_MODE=sim",
        f"export SCONE_ALLOW_DLOPEN={dlopen}",
        f"export SCONE_MPROTECT={'yes' if settings.mprotect else 'no'}",
        f"export SCONE_FORK={'yes' if settings.fork else 'no'}",
        "# HEAP, STACK, MPROTECT and FORK are measured, not enforced; the tuning values do nothing",
        f"SCONE version: crannog {__version__}",
        f"Enclave hash: {mrenclave}",
    ):
        log.plain(line)


def forbid_dumps() -> None:
    """No core file and no tracing of this process, before it holds the first secret."""
    import resource

    from crannog.linux.process import forbid_core_dumps

    forbid_core_dumps()
    # Inherited by the program, which will hold the same secrets. 1 and not 0: where core_pattern is
    # a pipe the kernel asks no limit but this one (fs/coredump.c); 1 byte is too little for a file.
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError:  # the hard limit is 0 already, and not ours to raise
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run_shielded(program: Program, executable: str, world: World) -> int:
    from crannog.runtime.init import hold_signals, supervise
    from crannog.runtime.supervisor.run import run_shielded

    # The loop runs for as long as the program; what the start has made will not be garbage then.
    gc.freeze()
    gc.enable()
    hold_signals()
    return run_shielded(
        executable=executable,
        argv=program.argv,
        environment=program.environment,
        pwd=program.pwd or "/",
        world=world,
        supervise=supervise,
    )


def _measure(settings: Settings, path: str) -> tuple[Measurement, Root]:
    from crannog.measure.mrenclave import ProgramSettings
    from crannog.measure.program import measure_program
    from crannog.measure.root import Root

    root = Root("/")
    measured = ProgramSettings(
        settings.heap, settings.stack, settings.allow_dlopen, settings.fork, settings.mprotect
    )
    return measure_program(root, path, measured), root


def _measure_and_locate(settings: Settings, path: str) -> tuple[Measurement, Root, str]:
    """As `_measure`, with the first measured path that does not lie on the root's own mount."""
    measurement, root = _measure(settings, path)
    paths = (entry.path for entry in measurement.entries)
    return measurement, root, next(filter(root.leaves_mount, paths), "")


def _print_version_of(settings: Settings, path: str, log: Log) -> None:
    """SCONE_VERSION=1 of a start that needs no measurement otherwise."""
    if settings.version:
        measurement, root = _measure(settings, path)
        root.close()
        print_version(settings, measurement.mrenclave, log)


def _input_is_null() -> bool:
    try:
        status = os.fstat(0)
    except OSError:
        return True  # closed
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL
