"""Images named by path: checked at submission, and read again when their task runs.

A task holds path and hash. The hash makes a path in a task safe: a worker sends a file to a model only if whoever made the
task knew its content, and only if it is an image, so that no task can make another user's file public.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from io import BufferedReader

from swarm.core.task import MAX_IMAGES, ImageRef
from swarm.formats.input.problems import FieldError

MAX_IMAGE_BYTES = 20 << 20
_HEAD_BYTES = 16
_KINDS = "PNG, JPEG, WebP, GIF or BMP"


class NoImage(ValueError):
    """A file that cannot be taken for the image that is meant; the text says why."""


def image_refs(paths: list[str], folder: str) -> list[dict[str, str]]:
    """Task entries for images below ``folder``, to which their paths are relative. Raises ``FieldError``."""
    if len(paths) > MAX_IMAGES:
        raise FieldError("images", f"{len(paths)} images; a request may have {MAX_IMAGES}")
    return [_ref(path, f"images[{index}]" if len(paths) > 1 else "images", folder) for index, path in enumerate(paths)]


def read_image(ref: ImageRef) -> bytes:
    """The image of a task, as it was when the task was made. Raises ``NoImage``, ``OSError``."""
    with _opened(ref.path) as file:
        data = file.read(MAX_IMAGE_BYTES + 1)
    _check_kind(data[:_HEAD_BYTES])
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise NoImage("is no longer what it was when the task was made; submit it again")
    return data


def _ref(path: str, field: str, folder: str) -> dict[str, str]:
    if not path or "\0" in path:
        raise FieldError(field, "must be a path")
    if path.startswith(("data:", "http://", "https://")):
        raise FieldError(field, "must be the path of a file; swarm fetches nothing from the network")
    base = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(base, path))
    if os.path.commonpath([base, real]) != base:
        way_out = "name the directory that holds the images with --images-dir (in Python: images_dir)"
        raise FieldError(field, f"{path!r} lies outside {base}; {way_out}")
    try:
        with _opened(real) as file:
            info = os.fstat(file.fileno())
            digest = _digest(file, (real, info.st_ino, info.st_size, info.st_mtime_ns))
    except NoImage as problem:
        raise FieldError(field, f"{path!r} {problem}") from problem
    except OSError as error:
        advice = f"; paths are relative to {base}" if isinstance(error, FileNotFoundError) else ""
        raise FieldError(field, f"{path!r} cannot be read: {error.strerror}{advice}") from error
    return {"path": real, "sha256": digest}


def _opened(path: str) -> BufferedReader:
    """A regular file of bounded size; links are not followed, and nothing is waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise NoImage("is no regular file")
        if not 0 < info.st_size <= MAX_IMAGE_BYTES:
            raise NoImage(f"has {info.st_size:,} bytes; an image has 1 to {MAX_IMAGE_BYTES:,} (20 MiB)")
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _digest(file: BufferedReader, identity: tuple[str, int, int, int]) -> str:
    """Inputs are read two times and more, and many lines may share an image: each is hashed once."""
    known = _known(identity)
    if not known:
        _check_kind(file.read(_HEAD_BYTES))
        file.seek(0)
        known.append(hashlib.file_digest(file, "sha256").hexdigest())
    return known[0]


@lru_cache(maxsize=65536)
def _known(_identity: tuple[str, int, int, int]) -> list[str]:
    return []


def _check_kind(head: bytes) -> None:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if not webp and not head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")):
        raise NoImage(f"is no image by its first bytes ({_KINDS})")
