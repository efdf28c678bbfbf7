"""Time a call costs on our side of the wire, against the bare openai SDK on the same local server in the same run.

    python benchmarks/endpoint.py [--calls 400] [--latency 0.02] [--check]

First one call after another (what is added to a call), then 64 at once on a server that takes `latency` seconds.
"bare" is the SDK as it comes, its own parsing included; "ours" checks every answer, keeps it in a database and holds to
the policy. The server is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from api_server import Server
from engine_cases import verdict
from recipes import MODEL

from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.calls import Calls
from constitutional.records import Sampling, user
from constitutional.settings import EndpointSettings


def serve(script: Path, latency: float, pipe: Connection) -> None:
    with Server(script, latency=latency) as server:
        pipe.send(server.url)
        pipe.recv()
        pipe.send(server.most_busy)


async def bare(url: str, calls: int, at_once: int) -> float:
    from openai import AsyncOpenAI

    rows = asyncio.Semaphore(at_once)
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def one(i: int) -> None:
            async with rows:
                await client.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": f"Prompt bare {at_once} {i}"}],
                    max_tokens=40,
                    temperature=0.0,
                    seed=1,
                )

        await client.models.list()
        started = time.perf_counter()
        await asyncio.gather(*(one(i) for i in range(calls)))
        return time.perf_counter() - started


def ours(url: str, calls: int, at_once: int, folder: Path) -> float:
    store = Calls(folder / f"calls{at_once}.sqlite")
    backend = EndpointBackend(f"m@{url}", EndpointSettings(concurrency=at_once), store)
    backend.generate([(user("Prompt warm"),)], Sampling(max_tokens=40))
    started = time.perf_counter()
    backend.generate([(user(f"Prompt {at_once} {i}"),) for i in range(calls)], Sampling(max_tokens=40))
    seconds = time.perf_counter() - started
    backend.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.yaml").write_text(MODEL.format(delay=0))
        print(f"{'calls':>6} {'at once':>8} {'bare ms/call':>13} {'ours ms/call':>13} {'added ms':>9} {'ratio':>6}")
        added = []
        for at_once, latency in ((1, 0.0), (64, arguments.latency)):
            near, far = multiprocessing.Pipe()
            process = multiprocessing.Process(target=serve, args=(folder / "model.yaml", latency, far), daemon=True)
            process.start()
            url = near.recv()
            # in turn, so that what else the machine does meets both alike
            parts = [
                (
                    asyncio.run(bare(url, arguments.calls // 4, at_once)),
                    ours(url, arguments.calls // 4, at_once, folder),
                )
                for folder in (Path(tempfile.mkdtemp(dir=name)) for _ in range(4))
            ]
            one, other = (1000 * sum(part) / (arguments.calls // 4 * 4) for part in zip(*parts, strict=True))
            added.append(other - one)
            near.send(None)
            busy = near.recv()
            print(
                f"{arguments.calls:>6} {at_once:>8} {one:>13.2f} {other:>13.2f} {other - one:>9.2f} {other / one:>6.2f}"
            )
            process.join()
        print(f"most calls under way at the server: {busy}")
    bars = [("ms added to a call", max(added), "<=", 5.0), ("calls under way at once", busy, ">=", 64)]
    verdict(bars, arguments.check)


if __name__ == "__main__":
    main()
