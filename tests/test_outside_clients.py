"""The sandbox against clients that others wrote: the official SDK, the document's axios example, curl."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from apiframe import Apiframe  # type: ignore[import-untyped] # it brings no types
from apiframe.exceptions import AuthenticationError, RateLimitError  # type: ignore[import-untyped] # likewise

from tests.conftest import KEY, Cli, Service, wait_until

DOCUMENT_URL = "https://api.apiframe.pro"
DOCUMENT_EXAMPLE = """\
const axios = require('axios');
const data = JSON.stringify({
  "prompt": "a sunflower field in the wind",
  "model": "flux-pro"
});

const config = {
  method: 'post',
  maxBodyLength: Infinity,
  url: 'https://api.apiframe.pro/flux-imagine',
  headers: { 
    'Content-Type': 'application/json', 
    'Authorization': 'YOUR_API_KEY'
  },
  data : data
};

axios.request(config)
.then((response) => {
  console.log(JSON.stringify(response.data));
})
.catch((error) => {
  console.log(error);
});
"""  # noqa: W291 - as the service's document has it


def tool(name: str) -> str:
    """Return the path of a program, or skip the test with a word that is seen in the summary."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"NOT TESTED: `{name}` is not installed")
    return path


# The official SDK


@pytest.fixture
def sdk(service: Service) -> Iterator[Apiframe]:
    """The official client, set to the sandbox's URL."""
    with Apiframe(api_key=KEY, base_url=service.url, timeout=20) as client:
        yield client


def test_the_sdk_submits_and_waits(sdk: Apiframe, service: Service) -> None:
    """It renames `task_id` to `id`, and waits for the word `finished`, which the document does not mention."""
    task = sdk.flux.generate({"model": "flux-pro", "prompt": "a kite", "width": 256, "height": 256})
    seen: list[int] = []
    result = sdk.tasks.wait_for(task["id"], on_progress=seen.append, interval=1, timeout=30)
    assert result["status"] == "completed"
    assert result["id"] == task["id"]
    assert str(result["image_url"]).startswith(service.running.images_url)
    assert seen[-1] == 100
    assert service.submissions == 1


def test_the_sdk_fetches_many_and_reads_the_account(sdk: Apiframe) -> None:
    """Each task once, and a credit a task."""
    before = sdk.tasks.get_account_info()
    ids = {sdk.flux.generate_dev({"prompt": f"a kite {number}"})["id"] for number in range(3)}
    ids |= {sdk.flux.generate_schnell({"prompt": "a boat"})["id"]}
    tasks = sdk.tasks.get_many(sorted(ids))["tasks"]
    assert {task["id"] for task in tasks} == ids
    account = sdk.tasks.get_account_info()
    assert int(before["credits"]) - int(account["credits"]) == 4
    assert account["email"]


def test_the_sdk_sees_failures_as_failures(sdk: Apiframe, service: Service) -> None:
    """It looks for the reason under `message` and `error` only, not under the `errors` of the service."""
    task = sdk.flux.generate_pro({"prompt": "a kite [[fail message]]"})
    with pytest.raises(Exception, match="the prompt asked for this failure"):
        sdk.tasks.wait_for(task["id"], interval=1, timeout=30)
    task = sdk.flux.generate_pro({"prompt": "a boat [[fail]]"})
    with pytest.raises(Exception, match="without error message"):
        sdk.tasks.wait_for(task["id"], interval=1, timeout=30)
    with pytest.raises(RateLimitError):
        sdk.flux.generate_pro({"prompt": "a kite [[rate-limit]]"})
    with Apiframe(api_key=" ", base_url=service.url) as keyless, pytest.raises(AuthenticationError):
        keyless.tasks.get_account_info()


# The document's example


def test_the_documents_axios_example_works_with_only_the_url_changed(
    service: Service, flux: Cli, tmp_path: Path
) -> None:
    """Node and axios from npm; the task that it submits is then saved by this program."""
    node, npm = tool("node"), tool("npm")
    (tmp_path / "package.json").write_text('{"private": true}')
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "axios@1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    assert DOCUMENT_EXAMPLE.count(DOCUMENT_URL) == 1
    (tmp_path / "example.js").write_text(DOCUMENT_EXAMPLE.replace(DOCUMENT_URL, service.url))
    ran = subprocess.run(
        [node, "example.js"],
        cwd=tmp_path,
        env=flux.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert list(answer) == ["task_id"]
    assert service.submissions == 1
    done = flux("wait", answer["task_id"])
    assert (done.code, len(flux.files())) == (0, 1), done.stderr


# curl


def test_curl_submits_waits_and_downloads(service: Service, tmp_path: Path) -> None:
    """With the raw key, as the document's headers have it."""
    curl = tool("curl")

    def call(*arguments: str) -> bytes:
        command = [curl, "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20", *arguments]
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout

    def post(path: str, body: object) -> dict[str, object]:
        headers = ("-H", "Content-Type: application/json", "-H", f"Authorization: {KEY}")
        answer: dict[str, object] = json.loads(call(*headers, "-d", json.dumps(body), f"{service.url}{path}"))
        return answer

    task_id = post("/flux-imagine", {"model": "flux-pro", "prompt": "a kite"})["task_id"]
    wait_until(lambda: "image_url" in post("/fetch", {"task_id": task_id}))
    result = post("/fetch", {"task_id": task_id})
    headers = ("-H", f"Authorization: {KEY}")
    assert json.loads(call(*headers, f"{service.url}/account"))["total_images"] == 1
    picture = tmp_path / "kite.png"
    call("-o", str(picture), str(result["image_url"]))
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert service.running.stats.leaked_keys == 0
