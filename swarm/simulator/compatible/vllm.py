"""The face of an OpenAI-compatible server like vLLM: it listens once its models are loaded, and tells nothing of slots."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from swarm.core.models.sim_model import COMPUTE_MIB, SimModel, model_of
from swarm.simulator import made_up_text as answers
from swarm.simulator.app import Route
from swarm.simulator.cards import Cards, card_dirs, visible_cards
from swarm.simulator.compatible.openai_app import OpenAiApp, say
from swarm.simulator.compatible.openai_request import OpenAiRequest
from swarm.simulator.compatible.openai_wire import DONE, EVENTS, Style, event
from swarm.simulator.http import ApiError, Request, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import LoadedModel

VERSION = "0.0.0+simulated"
_TYPES = {400: "BadRequestError", 404: "NotFoundError", 501: "NotImplementedError", 503: "ServiceUnavailableError"}
_IGNORED = ("--tensor-parallel-size", "-tp", "--dtype", "--kv-cache-dtype", "--quantization", "--seed-value", "--task")


class VllmFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    model: str
    """Empty: all models of the knob ``models`` are served."""
    name: str
    host: str
    port: int
    api_key: str
    max_model_len: int
    max_num_seqs: int
    memory_share: float


def parse_flags(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[VllmFlags, list[str]]:
    """The flags, and the arguments that are none of vLLM's. Exits with status 2 on a bad value."""
    parser = argparse.ArgumentParser(prog="vllm serve (simulated)", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model", default="")
    parser.add_argument("--served-model-name", dest="name", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", default=environ.get("VLLM_API_KEY", ""))
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--gpu-memory-utilization", dest="memory_share", type=float, default=0.9)
    for name in _IGNORED:
        parser.add_argument(name, dest="ignored")
    for name in ("--enable-sleep-mode", "--enable-prefix-caching", "--enforce-eager", "--trust-remote-code"):
        parser.add_argument(name, dest="ignored", action="store_true")
    given, others = parser.parse_known_args(argv)
    words = given.words[1:] if given.words[:1] == ["serve"] else given.words
    fields = {name: value for name, value in vars(given).items() if name in VllmFlags.__struct_fields__}
    return VllmFlags(**(fields | {"model": (words or [given.model])[0]})), others


class EngineModel(LoadedModel):
    """A model in the engine process: if that dies, all requests fail and the server ends."""

    def __init__(
        self, model: SimModel, num_ctx: int, slots: int, knobs: Callable[[], Knobs], stop: Callable[[int], None]
    ) -> None:
        super().__init__(model, num_ctx, slots, knobs)
        self._stop = stop

    def stopped(self) -> ApiError:
        return ApiError(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")

    async def crash(self) -> None:
        self._end()

    def run_out_of_memory(self) -> None:
        say("torch.OutOfMemoryError: CUDA out of memory.")
        self._end()

    def _end(self) -> None:
        self.mark_ended()
        asyncio.get_running_loop().call_later(0.1, self._stop, 1)
        raise self.stopped()


class VllmApp(OpenAiApp):
    """One simulated server of the kind of vLLM."""

    def __init__(self, knobs: Knobs, port: int, stop: Callable[[int], None], flags: VllmFlags) -> None:
        self.flags = flags
        self.style = Style("reasoning", "", timings=False, cached=False, usage=knobs.report_usage)
        super().__init__(knobs, port, stop)

    def own_routes(self) -> dict[tuple[str, str], Route]:
        posts = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
        return {
            ("GET", "/health"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/v1/models"): self._models,
            **{("POST", path): self.infer for path in posts},
        }

    def admits(self, request: Request, response: Response) -> bool:
        if not super().admits(request, response):
            return False
        given = request.headers.get("authorization", "")
        if self.flags.api_key and request.path.startswith("/v1") and given != f"Bearer {self.flags.api_key}":
            response.send_object({"error": "Unauthorized"}, 401)
            return False
        return True

    def refuse(self, request: Request, response: Response) -> None:
        del response
        known = request.path in self.methods
        raise ApiError(405 if known else 404, "Method Not Allowed" if known else "Not Found")

    def error_document(self, error: ApiError) -> dict[str, Any]:
        kind = _TYPES.get(error.status, "InternalServerError")
        return {"error": {"message": error.text, "type": kind, "param": None, "code": error.status}}

    def fail(self, error: ApiError, response: Response) -> None:
        """A stream ends as it always does, after the error."""
        if response.started:
            response.raw(event(self.error_document(error)) + DONE, last=True, content_type=EVENTS)
        else:
            super().fail(error, response)

    def find(self, name: str) -> LoadedModel:
        for one in self.models:
            if name in {"", one.model.name}:
                return one
        raise ApiError(404, f"The model `{name}` does not exist.")

    def check(self, request: OpenAiRequest, loaded: LoadedModel) -> None:
        limit = loaded.num_ctx
        if loaded.model.embedding != (request.kind == "embedding"):
            what = {"embedding": "Embeddings", "chat": "Chat Completions"}.get(request.kind, "Completions")
            raise ApiError(400, f"The model does not support {what} API")
        tokens = max(map(answers.count_tokens, request.ask.texts or [request.ask.prompt]))
        wanted = max(request.ask.limit, 0)
        if tokens + max(wanted, 1) > limit:
            raise ApiError(
                400,
                f"This model's maximum context length is {limit} tokens. However, you requested {wanted} output tokens and "
                f"your prompt contains {tokens} input tokens, for a total of {tokens + wanted} tokens. Please reduce the "
                "length of the input prompt or the number of requested output tokens.",
            )
        if not request.ask.texts and not wanted:
            request.ask.limit = limit - tokens

    async def load(self) -> str:
        """Load all models; why it failed, empty if it did not."""
        knobs, flags = self.knobs, self.flags
        await asyncio.sleep(knobs.load_s)
        if knobs.fail_load:
            return knobs.fail_load
        known = {model.name: model for model in map(model_of, knobs.models)}
        if flags.model:
            size_mib = known.get(model_of(flags.model).name, model_of(flags.model)).size_mib
            served = [SimModel(flags.name or flags.model, size_mib)]
        else:
            served = [SimModel(spec.partition("=")[0], model_of(spec).size_mib) for spec in knobs.models]
        gpus = visible_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), knobs.known_gpus)
        cards = Cards(card_dirs(knobs.card_dir))
        share_mib = int(gpus * knobs.vram_mib * flags.memory_share)
        wanted_mib = sum(model.size_mib for model in served) + COMPUTE_MIB
        free_mib = min(share_mib, gpus * knobs.vram_mib - cards.used_by_others_mib({os.getpid()}))
        if flags.model and gpus and wanted_mib > free_mib:
            return f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted_mib / 1024:.2f} GiB."
        for model in served:
            loaded = EngineModel(model, flags.max_model_len, flags.max_num_seqs, lambda: self.knobs, self.stop)
            loaded.size_mib = loaded.vram_mib = share_mib // len(served) if gpus else wanted_mib
            self.models.append(loaded)
        cards.show(os.getpid(), share_mib, ",".join(model.name for model in served))
        return ""

    async def _health(self, _: Request, response: Response) -> None:
        if any(one.ended.is_set() for one in self.models):
            response.send(503, b"")
        else:
            response.send(200, b"")

    async def _version(self, _: Request, response: Response) -> None:
        response.send_object({"version": VERSION})

    async def _models(self, _: Request, response: Response) -> None:
        data: list[dict[str, Any]] = [
            {
                "id": one.model.name,
                "object": "model",
                "created": 0,
                "owned_by": "vllm",
                "root": self.flags.model or one.model.name,
                "parent": None,
                "max_model_len": one.num_ctx,
                "permission": [],
            }
            for one in self.models
        ]
        response.send_object({"object": "list", "data": data, "simulated": True})
