"""Clients by others: the official SDK, curl, and the document's axios example."""

import base64
import io
import json
import subprocess
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.conftest import Cli, tool
from tests.sandbox.conftest import Api, Start

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
"""  # noqa: W291 - as in the service's document


def test_sdk(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official one sends `Bearer`, and reads a status and reasons that are not in the document."""
    apiframe = pytest.importorskip("apiframe", reason="not tested: the official SDK is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sdk = apiframe.Apiframe(api_key="anything", base_url=start(seconds=0.1).service.url)
    progress: list[int] = []
    task = sdk.flux.generate({"model": "flux-pro", "prompt": "a kite", "width": 320, "height": 256})
    result = sdk.tasks.wait_for(task["id"], on_progress=progress.append, interval=0.05, timeout=20)
    assert (result["status"], result["id"]) == ("completed", task["id"])
    assert progress == sorted(progress)
    assert progress[-1] == 100
    picture = requests.get(result["image_url"], timeout=10)
    assert Image.open(io.BytesIO(picture.content)).size == (320, 256)
    ids = [sdk.flux.generate_dev({"prompt": f"a kite {number}"})["id"] for number in range(3)]
    assert {task["id"] for task in sdk.tasks.get_many(ids)["tasks"]} == set(ids)
    account = sdk.tasks.get_account_info()
    assert (account["credits"], account["total_images"]) == (996, 4)
    for fault, message in (("[[fail message]]", "asked for this failure"), ("[[fail]]", "without error message")):
        task = sdk.flux.generate_pro({"prompt": f"a kite {fault}"})
        with pytest.raises(Exception, match=message):
            sdk.tasks.wait_for(task["id"], interval=0.05, timeout=20)
    for prompt, error in ((" ", "ApiframeError"), ("[[http 401]]", "AuthenticationError")):
        with pytest.raises(getattr(apiframe, error)):
            sdk.flux.generate({"model": "flux-pro", "prompt": prompt})


def test_curl(api: Api, tmp_path: Path) -> None:
    """An image prompt large enough for `Expect: 100-continue`; a key that is sent to the pictures is a leak."""
    curl, url = tool("curl"), api.service.url
    file = io.BytesIO()
    Image.effect_noise((1200, 1200), 90).convert("RGB").save(file, "PNG")
    size = {"model": "flux-pro-1.1-ultra", "width": 256, "height": 300}
    body = {**size, "prompt": "a kite", "image_prompt": base64.b64encode(file.getvalue()).decode()}
    (tmp_path / "body.json").write_text(json.dumps(body))

    def run(*arguments: str) -> bytes:
        command = [curl, "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    key = ("-H", "Authorization: anything", "-H", "Content-Type: application/json")
    task = json.loads(run(*key, "--data-binary", f"@{tmp_path / 'body.json'}", f"{url}/flux-imagine"))
    result = json.loads(run(*key, "--data", json.dumps(task), f"{url}/fetch"))
    run("-o", str(tmp_path / "kite.png"), result["image_url"])
    with Image.open(tmp_path / "kite.png") as picture:
        assert picture.size == (256, 300)
    assert json.loads(run("-H", "Authorization: Bearer anything", f"{url}/account"))["credits"] == 999
    assert b"a key was sent to the images' origin" in run(*key, result["image_url"])
    assert api.service.stats.leaked_keys == 1


def test_the_document_s_example(api: Api, cli: Cli, tmp_path: Path) -> None:
    """Node and axios, with only the URL changed; this program then saves its task."""
    node, npm = tool("node"), tool("npm")
    (tmp_path / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--no-audit", "--no-fund", "axios@1"]
    installed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert installed.returncode == 0, installed.stderr
    assert DOCUMENT_EXAMPLE.count(DOCUMENT_URL) == 1
    (tmp_path / "example.js").write_text(DOCUMENT_EXAMPLE.replace(DOCUMENT_URL, api.service.url))
    ran = subprocess.run(
        [node, "example.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    response = json.loads(ran.stdout)
    assert list(response) == ["task_id"]
    cli.env |= {"APIFRAME_API_KEY": "anything", "FLUX_CLI_API_URL": api.service.url}
    done = cli("wait", response["task_id"])
    assert (done.code, len(cli.files())) == (0, 1), done.stderr
