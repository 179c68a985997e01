"""Which server the simulator is, from its command line: its knobs, its address, its app, and how that comes up.

``--engine ollama`` (default), ``llama-server`` or ``openai``; what else is given are the real program's own flags and knobs.
"""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from swarm.simulator.app import App, check
from swarm.simulator.compatible import llama_flags, vllm
from swarm.simulator.compatible.llama_server import LlamaServerApp, LoadFailed
from swarm.simulator.compatible.openai_app import say
from swarm.simulator.knobs import Knobs, parser_of_knobs, read_knobs
from swarm.simulator.ollama.environment import read_environment
from swarm.simulator.ollama.routes import VERSION, OllamaApp

ENGINES = ("ollama", "llama-server", "openai")


class Face(ABC):
    """One kind of server, not yet started."""

    knobs: Knobs
    host: str
    port: int
    listens_first = True
    """Whether it answers HTTP before its model is loaded."""

    @abstractmethod
    def app(self, port: int, stop: Callable[[int], None]) -> App:
        """The server, once its port is known; inside the event loop. ``stop`` ends the process with a status."""

    @abstractmethod
    def listening(self, port: int) -> str:
        """The line that says that the port is taken."""

    @abstractmethod
    def not_listening(self, reason: str) -> str:
        """The line that says why the port cannot be had."""

    async def load(self, app: App) -> bool:
        """Get ready to work; False if that failed, which has been said."""
        del app
        return True


class OllamaFace(Face):
    """Ollama: what it needs is in its environment, and models are loaded on demand."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        parser = parser_of_knobs(
            "swarm sim ollama",
            "A simulated Ollama server. Honours OLLAMA_HOST, OLLAMA_MODELS, OLLAMA_NOPRUNE, OLLAMA_KEEP_ALIVE, "
            "OLLAMA_NUM_PARALLEL, OLLAMA_MAX_QUEUE, OLLAMA_MAX_LOADED_MODELS, OLLAMA_CONTEXT_LENGTH and "
            "CUDA_VISIBLE_DEVICES. With --engine llama-server or --engine openai: a simulated server of that kind.",
        )
        parser.add_argument("--host", help="address and port, default: OLLAMA_HOST, else 127.0.0.1:11434")
        given = vars(parser.parse_args(argv))
        self.knobs = _checked(read_knobs(parser, given, environ))
        self._env = read_environment(environ, self.knobs, given["host"])
        self.host, self.port = self._env.host, self._env.port

    def app(self, port: int, stop: Callable[[int], None]) -> App:
        del stop
        return OllamaApp(self.knobs, self._env, port)

    def listening(self, port: int) -> str:
        return f"Listening on {self.host}:{port} (version {VERSION})"

    def not_listening(self, reason: str) -> str:
        return f"Error: listen tcp {self.host}:{self.port}: bind: {reason}"


class LlamaServerFace(Face):
    """llama-server: one model by flag; HTTP is answered while it is loaded."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._flags, others = llama_flags.parse_flags(argv, environ)
        self.knobs = _knobs_in(others, "llama-server (simulated)", environ)
        self.host, self.port = self._flags.host, self._flags.port

    def app(self, port: int, stop: Callable[[int], None]) -> App:
        return LlamaServerApp(self.knobs, port, stop, self._flags)

    def listening(self, port: int) -> str:
        return f"Listening on {self.host}:{port} (simulated llama-server, loading)"

    def not_listening(self, reason: str) -> str:
        return (
            f"srv         start: couldn't bind HTTP server socket, hostname: {self.host}, port: {self.port} ({reason})\n"
            "srv  llama_server: exiting due to HTTP server error"
        )

    async def load(self, app: App) -> bool:
        assert isinstance(app, LlamaServerApp)
        try:
            await app.load()
        except LoadFailed as failed:
            say(str(failed))
            return False
        return True


class OpenAiFace(Face):
    """A server like vLLM: it listens when it can work."""

    listens_first = False

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._flags, others = vllm.parse_flags(argv, environ)
        self.knobs = _knobs_in(others, "vllm serve (simulated)", environ)
        self.host, self.port = self._flags.host, self._flags.port

    def app(self, port: int, stop: Callable[[int], None]) -> App:
        return vllm.VllmApp(self.knobs, port, stop, self._flags)

    def listening(self, port: int) -> str:
        return f"Listening on {self.host}:{port} (simulated vLLM, loading)"

    def not_listening(self, reason: str) -> str:
        return f"OSError: [Errno 98] {reason}: {self.host}:{self.port}"

    async def load(self, app: App) -> bool:
        assert isinstance(app, vllm.VllmApp)
        if failure := await app.load():
            say(f"{failure}\nRuntimeError: Engine core initialization failed. See root cause above.")
            return False
        say(f"INFO:     Uvicorn running on http://{self.host}:{app.port} (Press CTRL+C to quit)")
        return True


def face_of(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Face:
    """The face that a command line asks for. Exits on a bad flag.

    Raises ``ValueError`` for a fault or an address that is none.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--engine", choices=ENGINES, default="ollama")
    given, rest = parser.parse_known_args(argv)
    faces: dict[str, type[OllamaFace | LlamaServerFace | OpenAiFace]] = {
        "ollama": OllamaFace,
        "llama-server": LlamaServerFace,
        "openai": OpenAiFace,
    }
    return faces[given.engine](rest, environ)


def _knobs_in(argv: Sequence[str], prog: str, environ: Mapping[str, str]) -> Knobs:
    parser = parser_of_knobs(prog, "The knobs of the simulation, beside the real program's own flags.")
    return _checked(read_knobs(parser, vars(parser.parse_args(argv)), environ))


def _checked(knobs: Knobs) -> Knobs:
    check(knobs)
    return knobs
