"""Where engines that start a process for each model find its files.

A file that the configuration names comes first, then that of the model in Ollama's own store. An engine that finds models by
their names (vLLM) needs neither.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import Engine, engine_of_model
from swarm.core.models.model_file import ModelFile
from swarm.core.models.model_options import ModelTable
from swarm.core.models.model_server import InstalledModel, ModelDetails
from swarm.core.models.sim_model import TRAINED_CONTEXT, model_of
from swarm.core.task import canonical_model
from swarm.engines.gguf import read_gguf
from swarm.engines.ollama_store import find_stored_model, model_directories, stored_names
from swarm.engines.processes.model_spec import FoundModel
from swarm.errors import ModelFileInvalid, ModelNotFound, ModelServerError

REMEMBERED = 1024
"""Headers of model files."""


class ConfiguredFiles:
    """Fits ``ModelFiles``, for one engine of a worker; models that name no engine are served by ``worker_engine``."""

    def __init__(self, engine: Engine, worker_engine: str, settings: Settings, env: Mapping[str, str]) -> None:
        self._engine = engine
        self._worker_engine = worker_engine
        self._settings = settings
        self._models = ModelTable(settings.models)
        self._env = env

    def find(self, model: str) -> FoundModel:
        """As the port says."""
        named = self._models.of(model).file
        try:
            if named is not None and not os.path.lexists(named):
                raise ModelNotFound(
                    f"there is no file {named}", hint=f'correct file in [models."{self._models.spelled(model)}"]'
                )
            if named is not None:
                return _described(model, Path(named), _digest_of(named))
            if self._engine.kind != "llama-server":
                return FoundModel(details=ModelDetails(name=canonical_model(model)))
            stored = find_stored_model(model, model_directories(self._env))
            projectors, adapters = tuple(map(str, stored.projectors)), tuple(map(str, stored.adapters))
            return _described(model, stored.file, stored.digest, projectors, adapters)
        except ModelNotFound as error:
            raise TaskFault("deterministic", "model_missing", _words(error)) from error
        except ModelFileInvalid as error:
            raise TaskFault("deterministic", "bad_model_file", _words(error)) from error
        except (ModelServerError, OSError) as error:
            raise TaskFault("infra", "bad_model_file", _words(error)) from error

    def listed(self) -> Sequence[InstalledModel]:
        """Those of the configuration, and for llama-server those in Ollama's store; none without a usable file."""
        return tuple(_installed(self.find, dict.fromkeys(self._names())))

    def _names(self) -> Iterator[str]:
        named = (canonical_model(name) for name in self._settings.models)
        stored = stored_names(model_directories(self._env)) if self._engine.kind == "llama-server" else ()
        for name in (*named, *stored):
            if engine_of_model(self._settings, name, self._worker_engine) == self._engine.name:
                yield name


class SimulatedFiles:
    """Fits ``ModelFiles``: the models of simulated servers, whose files are their names."""

    def __init__(self, settings: Settings) -> None:
        self._models = {model.name: model for model in map(model_of, settings.sim.models)}

    def find(self, model: str) -> FoundModel:
        """As the port says."""
        found = self._models.get(canonical_model(model))
        if found is None:
            there = ", ".join(self._models)
            raise TaskFault("deterministic", "model_missing", f"the simulated disk has no model {model} (it has: {there})")
        details = ModelDetails(
            name=found.name,
            capabilities=tuple(found.capabilities),
            architecture=found.family,
            context_length=TRAINED_CONTEXT,
            kv_bytes_per_token=found.context_mib(1 << 20),  # MiB for 2^20 tokens
        )
        return FoundModel(file=found.name, digest=found.digest, size_mib=found.size_mib, details=details)

    def listed(self) -> Sequence[InstalledModel]:
        """All of them."""
        return tuple(_installed(self.find, self._models))


def _installed(find: Callable[[str], FoundModel], names: Iterable[str]) -> Iterator[InstalledModel]:
    for name in names:
        with suppress(TaskFault):  # a load of it says why
            found = find(name)
            capabilities = found.details.capabilities
            yield InstalledModel(
                name=canonical_model(name), digest=found.digest, size_mib=found.size_mib, capabilities=capabilities
            )


def _described(
    model: str, path: Path, digest: str, projectors: tuple[str, ...] = (), adapters: tuple[str, ...] = ()
) -> FoundModel:
    header = _header(path, _digest_of(str(path)))
    return FoundModel(
        file=str(path),
        projectors=projectors,
        adapters=adapters,
        digest=digest,
        size_mib=header.size_mib,
        details=_details(model, header, vision=bool(projectors)),
    )


@lru_cache(REMEMBERED)
def _header(path: Path, _digest: str) -> ModelFile:
    """Read once for each state of the file: vocabularies are long, and all models are listed again and again."""
    return read_gguf(path)


def _details(model: str, header: ModelFile, *, vision: bool) -> ModelDetails:
    able = ("embedding",) if header.embedding else ("completion", "vision") if vision else ("completion",)
    return ModelDetails(
        name=canonical_model(model),
        capabilities=able,
        architecture=header.architecture,
        context_length=header.context_length,
        kv_bytes_per_token=header.kv_bytes_per_token,
    )


def _digest_of(path: str) -> str:
    """Changes when the file is replaced or written; its gigabytes are not read for it."""
    status = os.stat(path)
    words = f"{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(os.fsencode(words)).hexdigest()


def _words(error: Exception) -> str:
    hint = getattr(error, "hint", None)
    text = str(getattr(error, "message", error))
    return f"{text}; {hint}" if hint else text
