"""A large CSV, uploaded to a real server: time, speed and memory, beside pandas doing less.

The peer, `pandas.read_csv` and `to_parquet` in a process of its own, keeps rows as they come: it
checks no time, number or duplicate, sorts nothing, sums nothing up and holds all of it in memory.

    python benchmarks/datasets.py [--megabytes 1000] [--seed 2026] [--dir DIR]
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from report import save
from servers import shopcast

from models.checkpoint import shipped

MB = 1_000_000
DAYS, ITEMS_A_TIME = 730, 400
WATCH_S = 0.05
WAIT_S = 3600.0
INTAKE = b"app.intake"
PEER = """
import resource, sys, time
import pandas as pd
began_s = time.perf_counter()
table = pd.read_csv(sys.argv[1])
table.to_parquet(sys.argv[2])
seconds = time.perf_counter() - began_s
print(len(table), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--dir", type=Path, default=None, help="where there is room for it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as place:
        file = Path(place) / "sales.csv"
        items, rows = write_csv(file, options.megabytes * MB, seed=options.seed)
        size = file.stat().st_size
        print(f"{size / MB:,.0f} MB, {rows:,} rows of {items:,} items", flush=True)
        ours = uploaded(file)
        peer = by_pandas(file, Path(place) / "sales.parquet")
    assert ours.pop("rows") == peer.pop("rows") == rows
    for each in (ours, peer):
        each["mb_per_s"] = size / MB / each["seconds"]
    for name, each in (("shopcast", ours), ("pandas", peer)):
        told = ", ".join(f"{key} {value:,.1f}" for key, value in each.items())
        print(f"{name}: {told}")
    details: dict[str, Any] = {
        "seed": options.seed,
        "file": {"bytes": size, "rows": rows, "items": items},
        "shopcast": ours,
        "pandas": peer,
        "peer_versions": {name: version(name) for name in ("pandas", "pyarrow")},
    }
    save(f"datasets-{options.megabytes}mb", [], **details)


def write_csv(file: Path, size: int, *, seed: int) -> tuple[int, int]:
    """Days of items with price and promotion; how many items and rows."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=DAYS).strftime("%Y-%m-%d").to_numpy()
    items = 0
    with file.open("w", encoding="ascii") as out:
        while out.tell() < size:
            names = [f"sku-{number:07d}" for number in range(items, items + ITEMS_A_TIME)]
            rate = rng.gamma(2.0, 8.0, ITEMS_A_TIME).repeat(DAYS)
            table = pd.DataFrame(
                {
                    "item_id": np.repeat(names, DAYS),
                    "timestamp": np.tile(days, ITEMS_A_TIME),
                    "target": rng.poisson(rate),
                    "price": np.round(rng.uniform(1, 50, rate.size), 2),
                    "promo": (rng.random(rate.size) < 0.1).astype(int),
                }
            )
            table.to_csv(out, index=False, header=items == 0)
            items += ITEMS_A_TIME
    return items, items * DAYS


def uploaded(file: Path) -> dict[str, Any]:
    """Through `POST /datasets`: seconds, and the most memory of the processes it takes."""
    place = file.parent / "data"
    settings = {"worker": "external", "max_upload_bytes": 1 << 40, "data_dir": place}
    with shopcast(shipped("series"), **settings) as port, file.open("rb") as content:
        with watched(port) as peaks, httpx.Client(timeout=WAIT_S) as client:
            before = dict(peaks)
            began_s = time.perf_counter()
            response = client.post(
                f"http://127.0.0.1:{port}/datasets",
                files={"file": ("sales.csv", content)},
                data={"name": "benchmark", "kind": "series"},
            )
            seconds = time.perf_counter() - began_s
        response.raise_for_status()
        found = response.json()
    return {
        "rows": found["rows"],
        "seconds": seconds,
        "api_mb_before": before["api"],
        "api_peak_mb": peaks["api"],
        "reading_peak_mb": peaks["reading"],
        "stored_mb": found["bytes"] / MB,
    }


@contextmanager
def watched(port: int) -> Iterator[dict[str, float]]:
    """The most memory, in MB, that the serving process and the reading one were seen with."""
    peaks = {"api": 0.0, "reading": 0.0}
    api = serving(port)
    ended = threading.Event()

    def look() -> None:
        peaks["api"] = max(peaks["api"], peak_mb(api))
        for child in children(api):
            if INTAKE in Path(f"/proc/{child}/cmdline").read_bytes():
                peaks["reading"] = max(peaks["reading"], peak_mb(child))

    def watch() -> None:
        while not ended.wait(WATCH_S):
            try:
                look()
            except OSError:  # it has just ended
                continue

    look()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def serving(port: int) -> int:
    """The process that listens on a port: the youngest child of `shopcast serve`."""
    mine = f"SHOPCAST_PORT={port}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mine in path.read_bytes().split(b"\0"):
                found.append(path.parent)
        except OSError:
            continue
    spawned = [each for each in found if b"spawn_main" in (each / "cmdline").read_bytes()]
    return max(int(each.name) for each in spawned)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text().split()]
    return found


def peak_mb(pid: int) -> float:
    """The most memory that a process has held so far (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith("VmHWM"))


def by_pandas(file: Path, to: Path) -> dict[str, Any]:
    """The peer, in a process of its own."""
    command = [sys.executable, "-c", PEER, str(file), str(to)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {
        "rows": int(said[0]),
        "seconds": float(said[1]),
        "peak_mb": float(said[2]) / MB,
        "stored_mb": to.stat().st_size / MB,
    }


if __name__ == "__main__":
    main()
