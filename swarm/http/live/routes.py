"""The routes of this package."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from swarm.formats.tasks.openai_batch import CHAT, COMPLETIONS, EMBEDDINGS
from swarm.http.live.live_ask import AskReader
from swarm.http.live.live_desk import LiveDesk
from swarm.http.live.model_list import model_routes
from swarm.http.live.ollama_routes import ollama_embed, ollama_embeddings, ollama_endpoint
from swarm.http.live.openai_routes import openai_endpoint
from swarm.http.parts import HttpParts


def routes(parts: HttpParts) -> Sequence[BaseRoute]:
    """See ``swarm.http.app``."""
    desk, reader = LiveDesk(parts), AskReader(parts.settings)
    parts.background.append(desk.running)
    return (
        *(Route(url, openai_endpoint(desk, reader, url), methods=["POST"]) for url in (CHAT, COMPLETIONS, EMBEDDINGS)),
        Route("/api/chat", ollama_endpoint(desk, reader, "/api/chat"), methods=["POST"]),
        Route("/api/generate", ollama_endpoint(desk, reader, "/api/generate"), methods=["POST"]),
        Route("/api/embed", ollama_embed(desk, reader), methods=["POST"]),
        Route("/api/embeddings", ollama_embeddings(desk, reader), methods=["POST"]),
        *model_routes(parts, desk.watch),
    )
