"""Run real clients against the server and print what they got.

`examples/clients/run` runs all, `examples/clients/run openai.mjs open_webui.py` some. Each has an environment in
`run/clients`; Open WebUI's takes 3 GB. Servers and clients use 127.0.0.1 only.
"""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from examples.clients.environments import HERE, NotInstalled, command, install, version
from examples.clients.servers import NotStarted, started

PROGRAM_SECONDS = 600


@dataclass(frozen=True)
class Between:
    """A server between a program and ours; the program finds it by the environment variable `address`."""

    command: Sequence[str]
    ready: str
    address: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Client:
    """A program, the packages whose versions are printed, and the number of pictures that it has to get."""

    program: str
    environment: str
    packages: Sequence[str]
    pictures: int
    between: Between | None = None


LITELLM_PROXY = Between(
    ["litellm", "--config", str(HERE / "litellm_proxy.yaml"), "--host", "127.0.0.1", "--port"],
    ready="/health/liveliness",
    address="LITELLM_PROXY_URL",
)
OPEN_WEBUI = Between(
    ["open-webui", "serve", "--host", "127.0.0.1", "--port"],
    ready="/health",
    address="OPEN_WEBUI_URL",
    variables={
        "OFFLINE_MODE": "true",
        "RAG_EMBEDDING_ENGINE": "openai",  # so that no model for embeddings is loaded; none is asked for here
        "ENABLE_OLLAMA_API": "false",
        "ENABLE_OPENAI_API": "false",  # of chats
    },
)
CLIENTS = [
    Client("openai.mjs", "node", ["openai"], pictures=6),
    Client("ai_sdk.mjs", "node", ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"], pictures=7),
    Client("langchain.mjs", "node", ["@langchain/openai"], pictures=3),
    Client("langchain_client.py", "langchain", ["langchain-community", "openai"], pictures=3),
    Client("litellm_client.py", "litellm", ["litellm", "openai"], pictures=5),
    Client("litellm_proxy_client.py", "litellm", ["litellm", "openai"], pictures=3, between=LITELLM_PROXY),
    Client("open_webui.py", "open_webui", ["open-webui"], pictures=6, between=OPEN_WEBUI),
]


def main() -> None:
    """Run the named clients, all by default; exit with 1 unless every one is ok."""
    names = sys.argv[1:] or [client.program for client in CLIENTS]
    if unknown := set(names) - {client.program for client in CLIENTS}:
        sys.exit(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(c.program for c in CLIENTS)}")

    key = "sk-" + secrets.token_hex(24)  # our server needs none, LiteLLM's proxy a long one
    variables = os.environ | {
        "PYTHONWARNINGS": "ignore",
        "OPENAI_API_KEY": key,
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it is downloaded otherwise
        "WEBUI_SECRET_KEY": key,
    }
    server = [sys.executable, "-m", "serve.command", "--model", "tiny", "--judge", "exact", "--port"]
    verdicts = {}
    try:
        with started(server, "/health/ready", {**variables, "PYTHONPATH": str(HERE.parent.parent)}) as url:
            for client in CLIENTS:
                if client.program in names:
                    verdicts[client.program] = run(client, {**variables, "OPENAI_BASE_URL": f"{url}/v1"})
                    print(flush=True)
    except NotStarted as error:
        sys.exit(f"the server did not start: {error}")
    for program, verdict in verdicts.items():
        print(f"{program}: {verdict}")
    sys.exit(any(verdict != "ok" for verdict in verdicts.values()))


def run(client: Client, variables: Mapping[str, str]) -> str:
    """Print a client's transcript and give a verdict, "ok" if all of its pictures came."""
    versions = ", ".join(f"{name} {version(client.environment, name)}" for name in client.packages)
    print(f"{client.program} ({versions})", flush=True)
    try:
        done = _call(client, variables)
    except NotInstalled as error:
        return f"not installed: {error}"
    except NotStarted as error:
        return f"failed: {client.between.command[0] if client.between else 'the server'}: {error}"
    except subprocess.TimeoutExpired:
        return f"failed: it took more than {PROGRAM_SECONDS} s"
    print(*(f"  {line}\n" for line in done.stdout.splitlines()), sep="", end="", flush=True)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr, flush=True)
        return f"failed: exit code {done.returncode}"
    found = len(re.findall(r"image/(?:png|webp) \d+x\d+", done.stdout))
    return "ok" if found == client.pictures else f"failed: {found} pictures instead of {client.pictures}"


def _call(client: Client, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a client's program, behind the server that is between it and ours if there is one."""
    programs = install(client.environment)
    with ExitStack() as stack:
        if between := client.between:
            line = [str(programs / between.command[0]), *between.command[1:]]
            url = stack.enter_context(started(line, between.ready, {**variables, **between.variables}))
            variables = {**variables, between.address: url}
        return subprocess.run(
            command(programs, client.program),
            env=dict(variables),
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
        )


if __name__ == "__main__":
    main()
