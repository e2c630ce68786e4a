"""Latency of predictions before and while a fine-tuning job runs on the same machine.

    shopcast serve &
    python benchmarks/retraining.py --dataset ds_0123456789abcdef --seconds 20

Requests are of one series that no cache knows, one after another from `--clients` threads. A job is
asked for that trains longer than is measured, and is cancelled at the end.
"""

import argparse
import json
import threading
import time

import httpx
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=2)
    given = parser.parse_args()
    with httpx.Client(base_url=given.url, timeout=60) as client:
        measured(given.url, 3.0, given.clients)  # warm
        before = measured(given.url, given.seconds, given.clients)
        words = {"kind": "finetune", "dataset_id": given.dataset, "promote": "never"}
        more = {"prediction_length": 7, "method": "full", "steps": 20_000, "patience": 10_000}
        job = client.post("/jobs", json=words | more).raise_for_status().json()
        while not (shown := client.get(f"/jobs/{job['id']}").json())["loss"]:
            assert shown["state"] in {"queued", "running"}, shown
            time.sleep(0.5)
        during = measured(given.url, given.seconds, given.clients)
        client.post(f"/jobs/{job['id']}/cancel", json={}).raise_for_status()
    ratio = during["p99_ms"] / before["p99_ms"]
    print(json.dumps({"before": before, "during": during, "p99_ratio": round(ratio, 2)}))


def measured(url: str, seconds: float, clients: int) -> dict[str, float]:
    """Quantiles of the latency in so many seconds."""
    found: list[float] = []
    threads = [
        threading.Thread(target=ask, args=(url, seconds, seed, found)) for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = 1e3 * np.quantile(found, [0.5, 0.99])
    return {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "requests": len(found)}


def ask(url: str, seconds: float, seed: int, found: list[float]) -> None:
    rng = np.random.default_rng((seed, time.time_ns()))
    with httpx.Client(base_url=url, timeout=60) as client:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            body = {"inputs": [{"target": rng.poisson(20, 200).tolist()}]}
            began_s = time.perf_counter()
            client.post("/predict/sales", json=body).raise_for_status()
            found.append(time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
