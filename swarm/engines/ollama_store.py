"""Finds the files of models that Ollama has pulled: from a model's name by its manifest to its blobs. Reads only.

``<models>/manifests/<host>/<namespace>/<model>/<tag>`` lists layers, which lie in ``<models>/blobs/sha256-<hex>``.
Names mean the same in any case, so a directory's entries are compared without it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from swarm.core.models.model_server import MIB
from swarm.core.task import canonical_model
from swarm.errors import ModelFileInvalid, ModelNotFound, ModelServerError

_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_MEDIA = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_USUAL = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models", "/var/lib/ollama/models")
"""Where Ollama keeps models when it runs as a service, by its own installer or by a distribution's package."""
_MAX_MANIFEST_BYTES = MIB


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in Ollama's store."""

    name: str
    """Canonical."""
    digest: str
    """Of its manifest, as ``/api/tags`` gives it too."""
    file: Path
    """The GGUF file with its weights."""
    projectors: tuple[Path, ...] = ()
    """Files with the part that reads images."""
    adapters: tuple[Path, ...] = ()


class _Layer(msgspec.Struct):
    digest: str
    media_type: str = msgspec.field(name="mediaType", default="")


class _Manifest(msgspec.Struct):
    layers: list[_Layer]


def model_directories(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Where Ollama may keep its models: ``$OLLAMA_MODELS`` alone if it is set, else the usual places that exist."""
    if env.get("OLLAMA_MODELS"):
        return (Path(env["OLLAMA_MODELS"]).expanduser(),)
    home = env.get("HOME") or os.path.expanduser("~")
    return tuple(path for path in (Path(home, ".ollama", "models"), *map(Path, _USUAL)) if os.path.lexists(path))


def find_stored_model(model: str, directories: Sequence[Path]) -> StoredModel:
    """The files of a model by its name (``llama3.2:3b``, ``hf.co/user/model:Q4_K_M``).

    Raises ``ModelNotFound``; ``ModelFileInvalid`` if its manifest is broken, a file is missing or there is no GGUF in it;
    ``ModelServerError`` if a directory may not be read.
    """
    parts = _parts(model)
    for directory in directories:
        manifest = _below(directory / "manifests", parts)
        if manifest is not None:
            return _stored(canonical_model(model), manifest, directory / "blobs")
    where = ", ".join(str(path) for path in directories) or "any of the usual places"
    raise ModelNotFound(
        f"Ollama has no model {canonical_model(model)} in {where}",
        hint=f'pull it (`swarm models pull {model}`), set OLLAMA_MODELS, or name its file: [models."{model}"] file = "…"',
    )


def stored_names(directories: Sequence[Path]) -> tuple[str, ...]:
    """Canonical names of all models in these stores, as their manifests are named. What cannot be read is left out."""
    found: dict[str, None] = {}
    for directory in directories:
        manifests = directory / "manifests"
        for path in sorted(manifests.glob("*/*/*/*")):
            host, namespace, name, tag = (part.lower() for part in path.relative_to(manifests).parts)
            prefix = (
                ""
                if (host, namespace) == (_HOST, _NAMESPACE)
                else f"{namespace}/"
                if host == _HOST
                else f"{host}/{namespace}/"
            )
            found[f"{prefix}{name}:{tag}"] = None
    return tuple(found)


def _parts(model: str) -> tuple[str, ...]:
    """Host, namespace, model and tag of a name. Raises ``ModelNotFound`` for what can be none."""
    *path, last = canonical_model(model).split("/")
    name, _, tag = last.partition(":")
    host, namespace = (_HOST, _NAMESPACE, *path)[-2:] if len(path) != 1 else (_HOST, path[0])
    parts = (host, namespace, name, tag)
    if len(path) > 2 or any(part in ("", ".", "..") for part in parts):
        raise ModelNotFound(f"{model!r} is no name of a model in Ollama's store", hint="write it like llama3.2:3b")
    return parts


def _below(directory: Path, parts: Sequence[str]) -> Path | None:
    """The path of these parts in any case; None: there is none."""
    path = directory
    for part in parts:
        try:
            found = next((entry for entry in sorted(os.listdir(path)) if entry.lower() == part), None)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            hint = "give this user the right to read it (usually: add it to the group ollama), or set [models.NAME] file"
            raise ModelServerError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
        if found is None:
            return None
        path /= found
    return path


def _stored(name: str, manifest: Path, blobs: Path) -> StoredModel:
    try:
        with manifest.open("rb") as file:
            raw = file.read(_MAX_MANIFEST_BYTES)
        layers = msgspec.json.decode(raw, type=_Manifest).layers
    except OSError as error:
        raise ModelServerError(f"{manifest} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ModelFileInvalid(f"{manifest} is no manifest of Ollama: {error}", hint=f"pull {name} again") from error
    files = {kind: _files(layers, kind, name, blobs) for kind in ("model", "projector", "adapter")}
    if not files["model"]:
        why = "is kept in a format that only Ollama itself runs (no GGUF layer)"
        raise ModelFileInvalid(f"{name} {why}: {manifest}", hint=f'leave it to Ollama: [models."{name}"] engine = "ollama"')
    return StoredModel(
        name=name,
        digest=hashlib.sha256(raw).hexdigest(),
        file=files["model"][0],
        projectors=files["projector"],
        adapters=files["adapter"],
    )


def _files(layers: Sequence[_Layer], kind: str, name: str, blobs: Path) -> tuple[Path, ...]:
    found = []
    for layer in layers:
        if layer.media_type != _MEDIA + kind:
            continue
        digest = _DIGEST.fullmatch(layer.digest)
        path = blobs / f"sha256-{digest[1]}" if digest is not None else None
        if path is None or not path.is_file():
            raise ModelFileInvalid(f"a file of {name} is missing: {path or layer.digest[:80]!r}", hint=f"pull {name} again")
        found.append(path)
    return tuple(found)
