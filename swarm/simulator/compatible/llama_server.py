"""The face of llama.cpp's ``llama-server``: one model, loaded while ``/health`` says 503, and ended with the process.

Field names and texts are those of llama.cpp b11434 (tools/server).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from swarm.core.models.sim_model import COMPUTE_MIB, MIB, TRAINED_CONTEXT, SimModel, model_of
from swarm.simulator import made_up_text as answers
from swarm.simulator.app import Route
from swarm.simulator.cards import Cards, card_dirs, visible_cards
from swarm.simulator.compatible.llama_flags import LlamaFlags
from swarm.simulator.compatible.openai_app import OpenAiApp, say
from swarm.simulator.compatible.openai_request import OpenAiRequest, read_object
from swarm.simulator.compatible.openai_wire import FINGERPRINT, Style
from swarm.simulator.http import ApiError, Request, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import LoadedModel

LEAST_CONTEXT = 4096
"""Without ``-c`` the context is cut to what fits, but not below this."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_PUBLIC = frozenset({"/", "/health", "/v1/health"})
"""Paths that need no API key."""
_GGUF = b"GGUF"


class TooLongError(ApiError):
    """A prompt that does not fit into a slot."""

    def __init__(self, text: str, tokens: int, limit: int) -> None:
        super().__init__(400, text)
        self.tokens = tokens
        self.limit = limit


class LoadFailed(Exception):
    """The lines that the real one logs before it exits with status 1."""


class OwnModel(LoadedModel):
    """A model that lives and dies with this process. ``pool``: the context of all slots together; 0: each has its own."""

    def __init__(self, model: SimModel, num_ctx: int, slots: int, knobs: Callable[[], Knobs], pool: int) -> None:
        super().__init__(model, num_ctx, slots, knobs)
        self._pool = pool

    def take(self, tokens: int) -> None:
        super().take(tokens)
        if 0 < self._pool < self.tokens_at_work:
            error = ApiError(500, "Context size has been exceeded.")
            self.fail_all(error)
            raise error

    def run_out_of_memory(self) -> None:
        self._abort(
            "CUDA error: out of memory\n"
            "  current device: 0, in function alloc at /llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:530\n"
            "  cuMemCreate(&handle, reserve_size, &prop, 0)\n"
            "/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:98: CUDA error"
        )

    async def crash(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _abort(self, lines: str) -> NoReturn:
        """Die as an assertion of ggml dies: some lines, then SIGABRT."""
        say(lines)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()


class LlamaServerApp(OpenAiApp):
    """One simulated llama-server."""

    style = Style("reasoning_content", None, timings=True, cached=True)

    def __init__(self, knobs: Knobs, port: int, stop: Callable[[int], None], flags: LlamaFlags) -> None:
        self.flags = flags
        super().__init__(knobs, port, stop)

    def own_routes(self) -> dict[tuple[str, str], Route]:
        posts = ("/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions")
        embeds = ("/embedding", "/embeddings", "/v1/embeddings")
        return {
            ("GET", "/"): self._page,
            ("GET", "/health"): self._health,
            ("GET", "/v1/health"): self._health,
            ("GET", "/props"): self._props,
            ("GET", "/slots"): self._slots,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/models"): self._models,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            **{("POST", path): self.infer for path in (*posts, *embeds)},
        }

    def admits(self, request: Request, response: Response) -> bool:
        if not super().admits(request, response):
            return False
        keys = self.flags.api_keys
        given = request.headers.get("authorization") or request.headers.get("x-api-key", "")
        if keys and request.path not in _PUBLIC and given.removeprefix("Bearer ") not in keys:
            raise ApiError(401, "Invalid API Key")
        if not self.models and request.path != "/":
            raise ApiError(503, "Loading model")
        return True

    def refuse(self, request: Request, response: Response) -> None:
        del request, response
        raise ApiError(404, "File Not Found")

    def error_document(self, error: ApiError) -> dict[str, Any]:
        document = {"code": error.status, "message": error.text, "type": _TYPES.get(error.status, "server_error")}
        if isinstance(error, TooLongError):
            document |= {"type": "exceed_context_size_error", "n_prompt_tokens": error.tokens, "n_ctx": error.limit}
        return {"error": document}

    def find(self, name: str) -> LoadedModel:
        """There is only one, whatever name a request gives."""
        del name
        return self.models[0]

    def check(self, request: OpenAiRequest, loaded: LoadedModel) -> None:
        limit = loaded.num_ctx
        if request.kind == "embedding":
            if not self.flags.embeddings:
                raise ApiError(501, "This server does not support embeddings. Start it with `--embeddings`")
            tokens = max(map(answers.count_tokens, request.ask.texts))
            if tokens > limit:
                text = f"input ({tokens} tokens) is larger than the max context size ({limit} tokens). skipping"
                raise TooLongError(text, tokens, limit)
            return
        if self.flags.embeddings:
            raise ApiError(500, "the current context does not support logits computation. skipping")
        tokens = answers.count_tokens(request.ask.prompt)
        if tokens >= limit:
            text = f"request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it"
            raise TooLongError(text, tokens, limit)
        request.ask.limit = min(request.ask.limit if request.ask.limit > 0 else limit, limit - tokens)

    async def load(self) -> None:
        """Load the model; requests are refused until then. Raises ``LoadFailed``."""
        knobs, flags = self.knobs, self.flags
        say(f"srv    load_model: loading model '{flags.file}'")
        model = _model_in(flags, knobs)
        slots = flags.parallel if flags.parallel > 0 else 4
        unified = flags.unified or flags.parallel <= 0
        free_mib = max(self._free_mib(), 0)
        room = int((free_mib - model.size_mib - COMPUTE_MIB) / max(model.context_mib(1 << 20), 1) * (1 << 20))
        total = flags.context or max(min(TRAINED_CONTEXT, room), LEAST_CONTEXT)
        loaded = OwnModel(
            model,
            min(total if unified else total // slots, TRAINED_CONTEXT),
            slots,
            lambda: self.knobs,
            total if unified else 0,
        )
        loaded.size_mib = model.size_mib + COMPUTE_MIB + model.context_mib(total)
        loaded.vram_mib = self._place(loaded, free_mib)
        await asyncio.sleep(knobs.load_s)
        if knobs.fail_load:
            raise LoadFailed(f"{knobs.fail_load}\n{_failed(flags)}")
        Cards(card_dirs(knobs.card_dir)).show(os.getpid(), loaded.vram_mib, model.name)
        self.models.append(loaded)
        say(f"srv    load_model: initializing, n_slots = {slots}, n_ctx_slot = {loaded.num_ctx}, kv_unified = '{unified}'")
        say("srv  llama_server: model loaded")
        say(f"srv  llama_server: listening on http://{flags.host}:{self.port}")

    def _gpus(self) -> int:
        return visible_cards(os.environ.get("CUDA_VISIBLE_DEVICES"), self.knobs.known_gpus)

    def _free_mib(self) -> int:
        used = Cards(card_dirs(self.knobs.card_dir)).used_by_others_mib({os.getpid()})
        return self._gpus() * self.knobs.vram_mib - used

    def _place(self, loaded: LoadedModel, free_mib: int) -> int:
        """Memory on the cards, MiB. Raises ``LoadFailed`` where what does not fit may not lie elsewhere."""
        placement, size_mib = self.knobs.placement, loaded.size_mib
        if self.flags.gpu_layers == "0" or placement == "none" or self._gpus() == 0:
            return 0
        if placement == "gpu" or size_mib <= free_mib:
            return size_mib
        if placement == "partial":
            return size_mib // 2
        if self.knobs.overflow == "partial" and self.flags.gpu_layers == "auto":
            return free_mib  # layers that are asked for by number are not put elsewhere
        weights = loaded.model.size_mib > free_mib
        wanted_mib = loaded.model.size_mib if weights else size_mib - loaded.model.size_mib
        buffer = f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {wanted_mib:.2f} MiB on device 0"
        lines = [
            f"{buffer}: cudaMalloc failed: out of memory",
            f"alloc_tensor_range: failed to allocate CUDA0 buffer of size {wanted_mib * MIB}",
            "llama_model_load: error loading model: unable to allocate CUDA0 buffer"
            if weights
            else "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            _failed(self.flags, "load model" if weights else "create_context with model"),
        ]
        raise LoadFailed("\n".join(lines))

    async def _page(self, _: Request, response: Response) -> None:
        response.send(200, b"<html><title>llama.cpp (simulated)</title></html>", "text/html")

    async def _health(self, _: Request, response: Response) -> None:
        response.send_object({"status": "ok"})

    async def _props(self, _: Request, response: Response) -> None:
        (loaded,) = self.models
        props = {
            "default_generation_settings": {"params": {}, "n_ctx": loaded.num_ctx},
            "total_slots": loaded.parallel,
            "model_alias": loaded.model.name,
            "model_ftype": "SIMULATED",
            "model_path": self.flags.file,
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": self.flags.slots,
            "endpoint_props": False,
            "endpoint_metrics": self.flags.metrics,
            "chat_template": "simulated",
            "chat_template_caps": {},
            "bos_token": "<s>",
            "eos_token": "</s>",
            "build_info": FINGERPRINT,
            "is_sleeping": False,
            "simulated": True,
        }
        response.send_object(props)

    async def _slots(self, _: Request, response: Response) -> None:
        if not self.flags.slots:
            raise ApiError(501, "This server does not support slots endpoint. Start it with `--slots`")
        (loaded,) = self.models
        entries = [
            {
                "id": slot.index,
                "n_ctx": loaded.num_ctx,
                "speculative": False,
                "is_processing": slot.busy,
                "n_prompt_tokens": slot.cached + slot.processed,
                "n_prompt_tokens_processed": slot.processed,
                "n_prompt_tokens_cache": slot.cached,
                "next_token": [{"has_next_token": slot.busy, "n_remain": -1, "n_decoded": slot.decoded}],
            }
            for slot in loaded.slots.all
        ]
        response.send_object(entries)

    async def _metrics(self, _: Request, response: Response) -> None:
        if not self.flags.metrics:
            raise ApiError(501, "This server does not support metrics endpoint. Start it with `--metrics`")
        (loaded,) = self.models
        values = {
            ("counter", "prompt_tokens_total"): self.evaluated,
            ("counter", "prompt_tokens_cached_total"): self.reused,
            ("counter", "tokens_predicted_total"): self.generated,
            ("gauge", "requests_processing"): sum(slot.busy for slot in loaded.slots.all),
            ("gauge", "requests_deferred"): loaded.slots.waiting,
        }
        lines = [f"# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n" for (kind, name), value in values.items()]
        response.send(200, "".join(lines).encode(), "text/plain; version=0.0.4")

    async def _models(self, _: Request, response: Response) -> None:
        (loaded,) = self.models
        name = loaded.model.name
        meta = {
            "n_ctx": loaded.num_ctx,
            "n_ctx_train": TRAINED_CONTEXT,
            "n_params": int(loaded.model.parameters_b * 1e9),
            "size": loaded.model.size_mib * MIB,
            "ftype": "SIMULATED",
        }
        entry = {"id": name, "aliases": [name], "object": "model", "created": 0, "owned_by": "llamacpp", "meta": meta}
        listed = {"name": name, "model": name, "capabilities": ["completion"], "details": {"format": "gguf"}}
        response.send_object({"models": [listed], "object": "list", "data": [entry], "simulated": True})

    async def _tokenize(self, request: Request, response: Response) -> None:
        content = str(read_object(request.body).get("content") or "")
        size = answers.CHARS_PER_TOKEN
        pieces = [content[at : at + size] for at in range(0, answers.count_tokens(content) * size, size)] if content else []
        response.send_object({"tokens": [zlib.crc32(piece.encode("utf-8", "replace")) % 32000 for piece in pieces]})


def _failed(flags: LlamaFlags, what: str = "load model") -> str:
    return (
        f"common_init_from_params: failed to {what} '{flags.file}'\n"
        f"srv    load_model: failed to {what}{',' if what == 'load model' else ''} '{flags.file}'\n"
        "srv  llama_server: exiting due to model loading error"
    )


def _model_in(flags: LlamaFlags, knobs: Knobs) -> SimModel:
    """The model in a file: of the size that the knob ``models`` gives to its name, else the file's.

    A name of that knob needs no file: it is on the simulated disk. Raises ``LoadFailed``.
    """
    path = Path(flags.file)
    known = {model.name: model for model in map(model_of, knobs.models)}
    name = flags.alias or path.name
    found = known.get(model_of(name).name) or known.get(model_of(flags.file).name)
    if not path.is_file():
        if found is not None and not path.is_absolute():
            return SimModel(name, found.size_mib)
        raise LoadFailed(
            f"gguf_init_from_file: failed to open GGUF file '{path}' (No such file or directory)\n"
            f"llama_model_load: error loading model: llama_model_loader: failed to load model from {path}\n"
            f"llama_model_load_from_file_impl: failed to load model\n{_failed(flags)}"
        )
    with open(path, "rb") as file:
        magic = file.read(len(_GGUF))
    if magic != _GGUF:
        shown = "".join(chr(one) if 32 <= one < 127 else "?" for one in magic)
        raise LoadFailed(
            f"gguf_init_from_reader: invalid magic characters: '{shown}', expected 'GGUF'\n"
            f"llama_model_load: error loading model: llama_model_loader: failed to load model from {path}\n"
            f"llama_model_load_from_file_impl: failed to load model\n{_failed(flags)}"
        )
    return SimModel(name, found.size_mib if found else -(-path.stat().st_size // MIB))
