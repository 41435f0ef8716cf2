"""Images that have nothing to do with Crannog: one program each, of every kind, and what it needs.

Each program writes the content of the files that it is told, and the variable GREETING. The files
of its image come from this machine; where the tools for one are missing its test is skipped with
the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

_C = r"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    const char *greeting = getenv("GREETING");
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        int c;
        if (!file) {
            perror(argv[i]);
            return 3;
        }
        while ((c = getc(file)) != EOF)
            putchar(c);
        fclose(file);
    }
    printf("%s\n", greeting ? greeting : "(none)");
    return 0;
}
"""
_GO = """
package main

import (
    "fmt"
    "os"
)

func main() {
    for _, path := range os.Args[1:] {
        data, err := os.ReadFile(path)
        if err != nil {
            fmt.Fprintln(os.Stderr, err)
            os.Exit(3)
        }
        os.Stdout.Write(data)
    }
    fmt.Println(os.Getenv("GREETING"))
}
"""
_NODE = (
    "const fs = require('fs');"
    "for (const path of process.argv.slice(1)) process.stdout.write(fs.readFileSync(path));"
    "console.log(process.env.GREETING)"
)
_JAVA = """
import java.nio.file.*;

public class Show {
    public static void main(String[] paths) throws Exception {
        for (String path : paths) System.out.print(Files.readString(Path.of(path)));
        System.out.println(System.getenv("GREETING"));
    }
}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A program and everything that it needs.

    Attributes:
        command: what is measured and what the session's command begins with.
        files: of the image, by path: where they are on this machine.
        dlopen: SCONE_ALLOW_DLOPEN.
        authenticated: directories of the image that its fspf authenticates.
    """

    command: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict)
    dlopen: int = 0
    authenticated: tuple[str, ...] = ()

    def put(self, root: Path) -> None:
        """Copy its files below `root`."""
        for path, source in self.files.items():
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, symlinks=True)
            else:
                shutil.copy(source, place)


def needed(name: str) -> str:
    """The path of a tool; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}")
    return path


def static_c(directory: Path) -> Program:
    """A static glibc program, alone."""
    return _compiled(directory, needed("gcc"), "-static")


def dynamic_c(directory: Path) -> Program:
    """A glibc program with its loader and its C library: what distroless images hold."""
    built = _compiled(directory, needed("gcc"))
    return Program(built.command, built.files | libraries(directory / "show"))


def static_go(directory: Path) -> Program:
    """A static Go program, alone."""
    go = needed("go")
    (directory / "show.go").write_text(_GO)
    _made([go, "build", "-o", str(directory / "show"), "show.go"], directory, CGO_ENABLED="0")
    return Program(("/show",), {"/show": directory / "show"})


def dynamic_musl(directory: Path) -> Program:
    """A musl program with its loader, which is its C library, in an otherwise empty image."""
    built = _compiled(directory, needed("musl-gcc"))
    loader = _interpreter(directory / "show")
    return Program(built.command, built.files | {loader: Path(loader).resolve()})


def static_musl(directory: Path) -> Program:
    """A static musl program, alone."""
    return _compiled(directory, needed("musl-gcc"), "-static")


def node(_directory: Path) -> Program:
    """This machine's node with its libraries."""
    path = Path(needed("node")).resolve()
    files = {str(path): path} | libraries(path)
    return Program((str(path), "-e", _NODE), files)


def java(directory: Path) -> Program:
    """A Java runtime of one module, in a directory of its own."""
    jlink, javac = needed("jlink"), needed("javac")
    (directory / "Show.java").write_text(_JAVA)
    # One release for both, whichever of several this machine's javac and jlink belong to.
    home = Path(jlink).resolve().parent.parent
    compiler = home / "bin" / "javac"
    _made([str(compiler if compiler.exists() else javac), "Show.java"], directory)
    made = directory / "java"
    options = ("--add-modules", "java.base", "--no-man-pages", "--no-header-files")
    _made([jlink, *options, "--output", str(made)], directory)
    found = libraries(made / "bin" / "java")
    for library in made.rglob("*.so"):
        found |= libraries(library)
    files = {"/java": made, "/classes/Show.class": directory / "Show.class"}
    files |= {path: each for path, each in found.items() if not path.startswith(str(made))}
    # It loads its own libraries by path, which are neither measured nor in a region.
    return Program(("/java/bin/java", "-Xshare:auto", "-cp", "/classes", "Show"), files, dlopen=2)


def java_in_a_region(directory: Path) -> Program:
    """As `java`; what it loads natively has to come from a region that the fspf authenticates.

    The system's libraries are in one as well: libjvm.so needs libstdc++.so.6, which the measured
    `java` does not, and which so is not measured.
    """
    return replace(java(directory), dlopen=1, authenticated=("/java", "/lib"))


PROGRAMS: dict[str, Callable[[Path], Program]] = {
    "static-c": static_c,
    "dynamic-c": dynamic_c,
    "static-go": static_go,
    "dynamic-musl": dynamic_musl,
    "static-musl": static_musl,
    "node": node,
    "java": java,
    "java-in-a-region": java_in_a_region,
}


def libraries(path: Path) -> dict[str, Path]:
    """The loader and the libraries that ldd(1) finds for a glibc program, links resolved."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        words = [word for word in line.split() if word.startswith("/")]
        if words:
            found[words[0]] = Path(words[0]).resolve()
    return found


def _compiled(directory: Path, compiler: str, *options: str) -> Program:
    (directory / "show.c").write_text(_C)
    _made([compiler, "-O1", "-o", "show", "show.c", *options], directory)
    return Program(("/show",), {"/show": directory / "show"})


def _interpreter(path: Path) -> str:
    done = subprocess.run(
        ["readelf", "--program-headers", "--wide", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if "interpreter:" in line]
    return line.rpartition(":")[2].strip(" ]")


def _made(command: list[str], directory: Path, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
