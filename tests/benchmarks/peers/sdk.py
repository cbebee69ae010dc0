"""A script with the official SDK; arguments: the number of threads, and the polling interval in seconds."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlretrieve

from apiframe import Apiframe  # type: ignore[import-untyped] # it brings no types


def make(prompt: str) -> None:
    """Make one picture."""
    task = client.flux.generate({"model": "flux-pro", "prompt": prompt})
    result = client.tasks.wait_for(task["id"], interval=float(sys.argv[2]))
    urlretrieve(result["image_url"], f"out/{task['id']}.png")  # noqa: S310 - a benchmark's server


client = Apiframe(api_key=os.environ["APIFRAME_API_KEY"], base_url=os.environ["FLUX_CLI_API_URL"])
Path("out").mkdir(exist_ok=True)
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(make, Path("rows.txt").read_text().splitlines()))
