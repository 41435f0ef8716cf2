"""Reading `images`: the files that exist in memory only."""

from __future__ import annotations

import posixpath
import re

from crannog.session.document import DEFAULT_FILE_MODE, Image, InjectionFile
from crannog.session.fields import (
    ALWAYS,
    LATER,
    SINCE_0_3,
    Context,
    Fields,
    KeyTable,
    Template,
    unique,
)
from crannog.session.problems import quoted
from crannog.session.tree import Node, Scalar

_IMAGE = KeyTable(
    name=ALWAYS,
    injection_files=ALWAYS,
    volumes=LATER,
    provide_secrets=LATER,
    mrenclaves=LATER,
    tags=LATER,
    palaemons=LATER,
)
_FILE = KeyTable(path=ALWAYS, content=ALWAYS, permission=SINCE_0_3)
_ON_DISK = "templates on the program's disk (a path without content) are not supported yet"
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_\-.~:/@+]{1,256}\Z")
_PERMISSION = re.compile(r"0o[0-7]{1,4}\Z")


def read_images(context: Context, root: Fields) -> tuple[Image, ...]:
    """The images of the document, in its order."""
    node = root.get("images")
    if node is None:
        return ()
    images: list[Image] = []
    names: list[tuple[str, Node, str]] = []
    for item, path in context.items(node, "images"):
        fields = context.fields(item, path, _IMAGE, what="an image")
        name_node = fields.need("name", expected="the image's name")
        name = _name(context, name_node, fields.path_of("name")) if name_node else ""
        names.append((name, name_node or item, fields.path_of("name")))
        images.append(Image(name, _files(context, fields, name)))
    unique(context, names, "image")
    return tuple(images)


def _name(context: Context, node: Node, path: str) -> str:
    return context.text(
        node,
        path,
        expected="1 to 256 of the characters A-Z a-z 0-9 _ - . ~ : / @ +",
        fits=lambda text: _IMAGE_NAME.match(text) is not None,
    )


def _files(context: Context, fields: Fields, image: str) -> tuple[InjectionFile, ...]:
    node = fields.get("injection_files")
    if node is None:
        return ()
    files: list[InjectionFile] = []
    paths: list[tuple[str, Node, str]] = []
    for item, path in context.items(node, fields.path_of("injection_files")):
        if isinstance(item, Scalar):
            context.problem(item, path, _ON_DISK, suggestion="give its content")
            continue
        entry = context.fields(item, path, _FILE, what="an injected file")
        where = entry.need("path", expected="an absolute path")
        file = _file(context, entry, where, image)
        paths.append((file.path, where or item, entry.path_of("path")))
        files.append(file)
    unique(context, paths, "injected file")
    _no_file_in_a_file(context, paths)
    return tuple(files)


def _file(context: Context, entry: Fields, where: Node | None, image: str) -> InjectionFile:
    content: str | None = None
    node = entry.get("content")
    if node is not None:
        path = entry.path_of("content")
        if isinstance(node, Scalar):
            content = node.text  # any text, a NUL too
            context.templates.append(Template(path, node, content, image=image))
        else:
            context.text(node, path)
    elif not entry.stands("content"):
        context.problem(entry.node, entry.path, _ON_DISK, suggestion="give its content")
    permission = entry.get("permission")
    return InjectionFile(
        path=_path(context, where, entry.path_of("path")) if where else "",
        content=content,
        mode=_mode(context, permission, entry.path_of("permission"))
        if permission
        else DEFAULT_FILE_MODE,
    )


def _path(context: Context, node: Node, at: str) -> str:
    text = context.absolute_path(node, at)
    if not text:
        return ""
    # One spelling for one file, so that it is found however a program gets there.
    normal = posixpath.normpath("/" + text.lstrip("/"))
    if normal == "/":
        context.problem(node, at, "is the root directory", expected="a file")
    elif len(text.encode()) > 4095:
        context.problem(node, at, "is too long for Linux", expected="at most 4095 bytes")
    elif normal != text:
        context.problem(
            node,
            at,
            found=quoted(text),
            expected="a path without ., .., // and a slash at the end",
            suggestion=f"did you mean {quoted(normal)}?",
        )
    else:
        return text
    return ""


def _mode(context: Context, node: Node, path: str) -> int:
    suggestion = ""
    if isinstance(node, Scalar) and re.fullmatch(r"0?[0-7]{3}", node.text):
        suggestion = f"did you mean 0o{node.text[-3:]}?"
    text = context.text(
        node,
        path,
        expected="permission bits from 0o000 to 0o777",
        fits=lambda t: _PERMISSION.match(t) is not None and int(t[2:], 8) <= 0o777,
        suggestion=suggestion,
    )
    return int(text[2:], 8) if text else DEFAULT_FILE_MODE


def _no_file_in_a_file(context: Context, paths: list[tuple[str, Node, str]]) -> None:
    # Sorted by components, everything below a file follows it directly.
    file = ""
    for path, node, at in sorted(paths, key=lambda entry: entry[0].split("/")):
        if file and path.startswith(f"{file}/"):
            context.problem(node, at, f"lies below {quoted(file)}, which is a file as well")
        elif path:
            file = path
