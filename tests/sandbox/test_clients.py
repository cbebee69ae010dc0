"""Clients that are not ours: curl and the official SDK, given nothing but the sandbox's URL."""

import base64
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from tests.sandbox.conftest import Api, Start

apiframe = pytest.importorskip("apiframe", reason="the official SDK (apiframe-sdk) is not installed")


@pytest.fixture
def sdk(start: Start, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official SDK, set to a sandbox's URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return apiframe.Apiframe(api_key="anything", base_url=start(seconds=0.1).service.url)


def test_the_official_sdk_submits_waits_and_finds_the_picture(sdk: Any) -> None:
    """It sends `Bearer`, and waits for a word that the document does not have."""
    progress: list[int] = []
    task = sdk.flux.generate({"model": "flux-pro", "prompt": "a kite", "width": 320, "height": 256})
    assert task["id"] == task["task_id"]
    result = sdk.tasks.wait_for(task["id"], on_progress=progress.append, interval=0.05, timeout=20)
    assert result["status"] == "completed"
    assert progress == sorted(progress)
    assert progress[-1] == 100
    picture = requests.get(result["image_url"], timeout=10)
    assert Image.open(io.BytesIO(picture.content)).size == (320, 256)


def test_the_official_sdk_hears_of_a_failure_with_its_reason(sdk: Any) -> None:
    """Its words for one are `message` and `error`, not the document's `errors`."""
    task = sdk.flux.generate_pro({"prompt": "a kite [[fail message]]"})
    with pytest.raises(Exception, match="asked for this failure"):
        sdk.tasks.wait_for(task["id"], interval=0.05, timeout=20)


def test_the_official_sdk_fetches_many_and_reads_the_account(sdk: Any) -> None:
    """With its own names for what the service calls otherwise."""
    ids = [sdk.flux.generate_dev({"prompt": f"a kite {number}"})["id"] for number in range(3)]
    assert {task["id"] for task in sdk.tasks.get_many(ids)["tasks"]} == set(ids)
    account = sdk.tasks.get_account_info()
    assert (account["credits"], account["total_images"]) == (997, 3)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda sdk: sdk.flux.generate({"model": "flux-pro", "prompt": " "}), "ApiframeError"),
        (lambda sdk: sdk.tasks.get("nothing"), "ApiframeError"),
        (lambda sdk: sdk.flux.generate({"model": "flux-pro", "prompt": "[[http 401]]"}), "AuthenticationError"),
        (lambda sdk: sdk.flux.generate({"model": "flux-pro", "prompt": "[[rate-limit]]"}), "RateLimitError"),
        (lambda sdk: sdk.flux.generate({"model": "flux-pro", "prompt": "[[http 500]]"}), "ApiframeError"),
    ],
)
def test_the_official_sdk_understands_refusals(sdk: Any, call: Any, error: str) -> None:
    """Each as the exception that it has for them. For an HTML page it has none: it stumbles over it."""
    with pytest.raises(apiframe.ApiframeError) as raised:
        call(sdk)
    assert type(raised.value).__name__ == error


@pytest.fixture
def curl() -> str:
    """The path of curl."""
    found = shutil.which("curl")
    if found is None:
        pytest.skip("curl is not installed: the sandbox is not tried with it")
    return found


def test_curl_does_the_whole_job(curl: str, start: Start, tmp_path: Path) -> None:
    """Submission with an image prompt large enough for `Expect: 100-continue`, fetch, download."""
    api = start()
    file = io.BytesIO()
    Image.effect_noise((1200, 1200), 90).convert("RGB").save(file, "PNG")
    (tmp_path / "body.json").write_text(
        json.dumps(
            {
                "model": "flux-pro-1.1-ultra",
                "prompt": "a kite",
                "width": 256,
                "height": 300,
                "image_prompt": base64.b64encode(file.getvalue()).decode(),
                "image_prompt_strength": 0.5,
            }
        )
    )

    def run(*arguments: str) -> bytes:
        command = [curl, "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    key = ("-H", "Authorization: anything", "-H", "Content-Type: application/json")
    url = api.service.url
    task = json.loads(run(*key, "--data-binary", f"@{tmp_path / 'body.json'}", f"{url}/flux-imagine"))
    result = json.loads(run(*key, "--data", json.dumps(task), f"{url}/fetch"))
    run("-o", str(tmp_path / "kite.png"), result["image_url"])
    assert Image.open(tmp_path / "kite.png").size == (256, 300)
    assert json.loads(run("-H", "Authorization: Bearer anything", f"{url}/account"))["credits"] == 999


def test_curl_that_sends_its_key_to_the_pictures_is_caught(curl: str, api: Api) -> None:
    """As it does when somebody adds the header to every call."""
    url = api.finished("a kite")["image_url"]
    command = [curl, "--silent", "--noproxy", "*", "-H", "Authorization: anything", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "a key was sent to the images' origin" in done.stdout
    assert api.service.stats.leaked_keys == 1
