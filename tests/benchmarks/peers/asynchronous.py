"""A script with aiohttp: 64 tasks in flight, and a poll every half second."""

import asyncio
import os
from pathlib import Path

import aiohttp

URL = os.environ["FLUX_CLI_API_URL"]
HEADERS = {"Authorization": os.environ["APIFRAME_API_KEY"]}


async def make(session: aiohttp.ClientSession, places: asyncio.Semaphore, prompt: str) -> None:
    """Make one picture."""
    async with places:
        async with session.post(f"{URL}/flux-imagine", json={"model": "flux-pro", "prompt": prompt}) as response:
            task = await response.json()
        while True:
            await asyncio.sleep(0.5)
            async with session.post(f"{URL}/fetch", json=task) as response:
                result = await response.json()
            if "image_url" in result:
                break
        async with session.get(result["image_url"], headers={"Authorization": ""}) as response:
            Path(f"out/{task['task_id']}.png").write_bytes(await response.read())


async def main() -> None:
    """Make all pictures."""
    Path("out").mkdir(exist_ok=True)
    places = asyncio.Semaphore(64)
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        prompts = Path("rows.txt").read_text().splitlines()
        await asyncio.gather(*(make(session, places, prompt) for prompt in prompts))


asyncio.run(main())
