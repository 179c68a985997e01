"""Joins a Ray cluster, and says in plain words why that cannot be."""

from __future__ import annotations

import hashlib
import os
import re
import socket

from swarm.errors import ConfigError, EngineError

AUTO = "auto"
KNOCK_S = 5.0
HEAD_GONE_S = "15"
"""After so long without the cluster's head Ray ends this process, and until then its calls wait: Ray's own minute would be
the time that `swarm down` takes. The supervisor starts the next driver; actors and relays go on."""
_START = "`ray start --head --port=6379` on one machine, `ray start --address=HEAD:6379` on the others, this one too"
_WITH_AUTH = "RAY_AUTH_MODE=token with the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token), if its nodes have one"
EXTRA = "pip install 'gpu-swarm[ray]'"


def namespace_of(token: str) -> str:
    """The namespace of a queue's actors: by its relays' token, which nobody else has, so it may move and be copied."""
    return f"swarm-{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def check_address(address: str) -> None:
    """Raises ``ConfigError`` for what is no ``HOST:PORT`` and not ``auto``."""
    if address.startswith("ray://"):
        what = "is Ray's client protocol, which does not tell of nodes that are lost"
        hint = (
            "make this machine a node, without cards of its own: ray start --address=HEAD:6379 --num-gpus=0; then HEAD:6379"
        )
        raise ConfigError(f"--ray {address} {what}", hint=hint)
    if address != AUTO and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", address):
        raise ConfigError(f"--ray {address}: this is no address of a Ray cluster", hint="HOST:PORT of its head, or auto")


def connect(address: str, namespace: str) -> str:
    """Make this process a driver of that cluster; returns the version of Ray there.

    Raises ``ConfigError`` (no Ray here, other versions there, no token), ``EngineError`` (nobody there; this machine is no
    node of it). Overwrites the handler of SIGTERM.
    """
    check_address(address)
    if address != AUTO:
        _knock(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", HEAD_GONE_S)
    os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", HEAD_GONE_S)
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(f"Ray is not installed: {error}", hint=EXTRA) from error
    try:
        ray.init(
            address,
            namespace=namespace,
            log_to_driver=False,
            configure_logging=False,
            ignore_reinit_error=False,
        )
    except Exception as error:  # what Ray raises here is of no common class
        raise refusal_of(address, error) from error
    return str(ray.__version__)


def _knock(address: str) -> None:
    """Ray ends this process where nobody is at the address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EngineError(f"there is no Ray cluster: nobody listens at {address}: {why}", hint=_START) from error


def refusal_of(address: str, error: Exception) -> ConfigError | EngineError:
    """What Ray raised, in plain words and with what to do."""
    said = " ".join(f"{error}: {error.__cause__}".split() if error.__cause__ else str(error).split())
    kind = type(error).__name__
    if "ersion mismatch" in said:
        found = re.findall(r"(Ray|Python): ([0-9][^ ]*)", said)
        there, here = (", ".join(f"{name} {version}" for name, version in half) for half in (found[:2], found[2:4]))
        what = f"the cluster at {address} has {there or 'another version'}, here is {here or 'this one'}"
        return ConfigError(f"{what}: both must be the same", hint="start Ray on all nodes from the same Python environment")
    if kind == "AuthenticationError" or "InvalidAuthToken" in said:
        what = said.partition(". ")[0] if kind == "AuthenticationError" else "it wants another token, or one at all"
        return ConfigError(f"the cluster at {address} refuses us: {what}", hint=_WITH_AUTH)
    if "No node info found" in said or "resolve node to connect to" in said or "local Raylet" in said:
        hint = f"on this machine: ray start --address={address} --num-gpus=0 (or without --num-gpus, to use its cards too)"
        return EngineError(f"this machine is no node of the Ray cluster at {address}", hint=hint)
    if address != AUTO:  # somebody listens there
        why = said.partition(" Last connection error")[0][:200] or kind
        what = f"no Ray cluster answers at {address}, or it wants another token: {why}"
        return EngineError(what, hint=f"`ray status --address={address}`; {_WITH_AUTH}")
    return EngineError(f"there is no Ray cluster here: {said[:200] or kind}", hint=_START)
