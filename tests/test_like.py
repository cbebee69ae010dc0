"""`--sidecar` and `--like`: the request of a picture next to it, and as the start of a new one."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_cli.errors import LocalFileError
from flux_cli.pictures import sidecar
from tests.conftest import Cli, Service
from tests.server import Server, http, reply
from tests.test_imagine import SMALL, png

ULTRA = ("-m", "flux-pro-1.1-ultra", "--aspect-ratio", "21:9", "--raw")


def imagine(flux: Cli, *arguments: str, **more: Any) -> str:
    done = flux("imagine", *arguments, "-q", **more)
    assert done.code == 0, done.stderr
    return done.lines[0]


def dry_run(cli: Cli, *arguments: str, **more: Any) -> dict[str, Any]:
    done = cli("imagine", "--dry-run", *arguments, **more)
    assert done.code == 0, done.stderr
    return done.objects[0]


def test_contents_of_a_sidecar(flux: Cli, service: Service) -> None:
    name = imagine(flux, "a [red] kite", "--seed", "7", "--sidecar", "-o", "kite.png", *SMALL)
    assert flux.files() == [name, f"{name}.json"]
    text = (flux.cwd / f"{name}.json").read_text()
    assert text.startswith('{\n  "flux_cli_sidecar": 1,\n')
    content = json.loads(text)
    record = flux.history()[0]
    created = content.pop("created")
    assert created.startswith("20")
    assert created.endswith("Z")
    assert content == {
        "flux_cli_sidecar": 1,
        "task_id": record["task_id"],
        "service": service.url,
        "model": "flux-pro",
        "seed": 7,
        "image": "kite.png",
        "sha256": hashlib.sha256((flux.cwd / name).read_bytes()).hexdigest(),
        "request": {"model": "flux-pro", "prompt": "a [red] kite", "width": 256, "height": 256, "seed": 7},
    }
    assert content["request"] == record["request"]


def test_sidecars_of_several_pictures(flux: Cli) -> None:
    imagine(flux, "x", "-n", "3", "--seed", "5", "--sidecar", "-o", "{n}.png", *SMALL)
    assert flux.files() == ["1.png", "1.png.json", "2.png", "2.png.json", "3.png", "3.png.json"]
    assert [json.loads((flux.cwd / f"{n}.png.json").read_text())["seed"] for n in (1, 2, 3)] == [5, 6, 7]


def test_a_sidecar_has_no_secret_and_no_webhook(flux: Cli) -> None:
    """It is shared with the picture."""
    secret = {"FLUX_CLI_WEBHOOK_SECRET": "hush-hush"}
    url = "http://127.0.0.1:9/hook?token=abc"
    name = imagine(flux, "x", "--webhook-url", url, "--sidecar", *SMALL, env=secret)
    text = (flux.cwd / f"{name}.json").read_text()
    assert "hush-hush" not in text
    assert "webhook" not in text
    task_id = flux.history()[0]["task_id"]
    assert "webhook_url" not in dry_run(flux, "--like", task_id, env=secret)


def test_a_sidecar_has_no_credentials_of_an_image_prompt(tmp_path: Path) -> None:
    """Histories of version 0.1.0 have whole URLs."""
    (tmp_path / "x.png").write_bytes(png())
    request = {"prompt": "x", "image_prompt": {"source": "https://me:hush@host.example/in.png?token=hush"}}
    path = sidecar.write(tmp_path / "x.png", request, task_id="a", created=None, service="sandbox", force=False)
    assert sidecar.read(path).request["image_prompt"] == {"source": "https://host.example/in.png"}


def test_wait_writes_a_sidecar_once(flux: Cli) -> None:
    """The request comes from the history; a second `wait` keeps the file."""
    (task_id,) = flux("imagine", "a kite", "--no-wait", *SMALL).lines
    first = flux("wait", task_id, "--sidecar", "-q")
    (name,) = first.lines
    text = (flux.cwd / f"{name}.json").read_text()
    assert json.loads(text)["request"]["prompt"] == "a kite"
    again = flux("wait", task_id, "--sidecar", "-q")
    assert (again.code, again.lines) == (0, [name]), again.stderr
    assert (flux.cwd / f"{name}.json").read_text() == text


def test_no_sidecar_without_history(flux: Cli) -> None:
    (task_id,) = flux("imagine", "a kite", "--no-wait", *SMALL).lines
    flux.history_file.unlink()
    done = flux("wait", task_id, "--sidecar")
    assert done.code == 0
    assert "warning: no sidecar: the history does not contain the request" in done.stderr
    assert flux.files() == done.lines


def test_sidecar_name_is_taken(flux: Cli, service: Service) -> None:
    """Rejected before anything is sent if the name is explicit; `--force` replaces it."""
    (flux.cwd / "kite.png.json").write_text("mine")
    done = flux("imagine", "x", "-o", "kite.png", "--sidecar")
    assert (done.code, service.submissions) == (6, 0)
    assert "kite.png.json exists" in done.stderr
    assert (flux.cwd / "kite.png.json").read_text() == "mine"
    imagine(flux, "x", "-o", "kite.png", "--sidecar", "--force", *SMALL)
    assert json.loads((flux.cwd / "kite.png.json").read_text())["request"]["prompt"] == "x"


@pytest.mark.parametrize("option", ["--sidecar", "--preview", "--open"])
@pytest.mark.parametrize("without", [["--no-wait"], ["-o", "-"]])
def test_options_that_need_a_file(flux: Cli, service: Service, option: str, without: list[str]) -> None:
    done = flux("imagine", "x", option, *without)
    assert (done.code, service.submissions) == (2, 0)
    assert f"`{option}` needs" in done.stderr


def test_like_sidecar_picture_or_task(flux: Cli) -> None:
    """All give the same request, and a real run records it."""
    name = imagine(flux, "wide dunes", "--seed", "3", "--prompt-upsampling", "--sidecar", *ULTRA)
    recorded = flux.history()[0]
    for like in (f"{name}.json", name, str(flux.cwd / name), recorded["task_id"], recorded["task_id"][:8]):
        assert dry_run(flux, "--like", like) == recorded["request"]
    imagine(flux, "--like", name)
    assert flux.history()[0]["request"] == recorded["request"]


def test_like_recognises_a_picture_that_was_moved(flux: Cli) -> None:
    """By its content: renamed, copied, and beside the sidecar of another picture; by its path if it was edited."""
    name = imagine(flux, "wide dunes", "--seed", "3", "--sidecar", *SMALL)
    other = imagine(flux, "a kite", "--sidecar", *SMALL)
    recorded = flux.history()[1]["request"]
    (flux.cwd / f"{name}.json").write_text("a file of the user's own, which was once an error")
    assert dry_run(flux, "--like", name) == recorded
    (flux.cwd / f"{name}.json").unlink()
    assert dry_run(flux, "--like", name) == recorded
    (flux.cwd / "moved").mkdir()
    (flux.cwd / name).rename(flux.cwd / "moved" / "best.png")
    assert dry_run(flux, "--like", "moved/best.png") == recorded
    (flux.cwd / "moved" / "best.png").rename(flux.cwd / other)
    assert dry_run(flux, "--like", other) == recorded
    (flux.cwd / other).write_bytes(png())
    assert dry_run(flux, "--like", other)["prompt"] == "a kite"


def test_like_without_history(cli: Cli) -> None:
    """Even if its bytes have changed since; without a sidecar it is exit 6."""
    (cli.cwd / "x.png").write_bytes(png())
    request = {"model": "flux-pro", "prompt": "x"}
    content = {"flux_cli_sidecar": 1, "request": request, "sha256": "0" * 64}
    (cli.cwd / "x.png.json").write_text(json.dumps(content))
    assert dry_run(cli, "--like", "x.png") == request
    (cli.cwd / "x.png.json").write_text("")
    assert "x.png.json is not a sidecar" in cli("imagine", "--like", "x.png", "--dry-run").stderr
    (cli.cwd / "x.png.json").unlink()
    done = cli("imagine", "--like", "x.png", "--dry-run")
    assert done.code == 6
    assert "x.png has no sidecar and is not in the history" in done.stderr


def test_an_ambiguous_prefix_is_a_usage_error(flux: Cli) -> None:
    """It lists the candidates; a prefix of fewer than 4 characters is not one."""
    with Server({"/flux-imagine": lambda r: reply({"task_id": f"twin-{r.number}"})}) as server:
        for prompt in ("a", "b"):
            assert flux("imagine", prompt, "--no-wait", "--api-url", server.url).code == 0
    done = flux("imagine", "--like", "twin", "--dry-run")
    assert done.code == 2
    assert "twin-0" in done.stderr
    assert flux("imagine", "--like", "twi", "--dry-run").code == 6


def test_flags_and_prompt_override_the_request(flux: Cli) -> None:
    """Each flag replaces its own field only; a pipe is not read without `-`, since the request has a prompt."""
    like = ("--like", imagine(flux, "wide dunes", "--seed", "3", "--sidecar", *ULTRA))
    was = dry_run(flux, *like)
    for flags, change in (
        (["--seed", "7"], {"seed": 7}),
        (["--no-raw", "--aspect-ratio", "1:1"], {"raw": False, "aspect_ratio": "1:1"}),
        (["tall dunes"], {"prompt": "tall dunes"}),
        ([], {}),
        (["-"], {"prompt": "from stdin"}),
    ):
        assert dry_run(flux, *like, *flags, input="from stdin") == {**was, **change}
    assert [body["seed"] for body in flux("imagine", "--dry-run", *like, "-n", "3").objects] == [3, 4, 5]


def test_only_a_flag_changes_the_model(flux: Cli) -> None:
    """Neither the environment nor the config file does."""
    name = imagine(flux, "x", "-m", "flux-dev", "--sidecar", *SMALL)
    flux.config.parent.mkdir(parents=True)
    flux.config.write_text('model = "flux-schnell"\n')
    env = {"FLUX_CLI_MODEL": "flux-pro-1.1"}
    assert dry_run(flux, "--like", name, env=env)["model"] == "flux-dev"
    assert dry_run(flux, "--like", name, "-m", "flux-pro", env=env)["model"] == "flux-pro"


def test_rules_apply_to_the_combination(flux: Cli, service: Service) -> None:
    """A recorded field that the new model does not have: exit 2, nothing sent, and where it comes from."""
    name = imagine(flux, "dunes", "--sidecar", *ULTRA)
    done = flux("imagine", "--like", f"{name}.json", "-m", "flux-dev")
    assert (done.code, service.submissions) == (2, 1)
    assert "`--raw` needs `flux-pro-1.1-ultra`, but the model is `flux-dev`" in done.stderr
    assert f"fields without a flag come from {name}.json" in done.stderr


def with_image_prompt(flux: Cli, source: str, **more: Any) -> str:
    return imagine(flux, "x", "--image-prompt", source, "--sidecar", "-o", "made.png", *SMALL, **more)


def test_the_image_prompt_is_read_again(flux: Cli, service: Service) -> None:
    """The same bytes from the same file are sent again, from wherever the command runs."""
    (flux.cwd / "in.png").write_bytes(png())
    name = with_image_prompt(flux, "in.png")
    was = flux.history()[0]["request"]
    assert was["image_prompt"]["sha256"] == hashlib.sha256(png()).hexdigest()
    assert sidecar.read(flux.cwd / f"{name}.json").request == was
    assert dry_run(flux, "--like", str(flux.cwd / name), cwd=flux.home) == was
    imagine(flux, "--like", name)
    assert flux.history()[0]["request"] == was
    assert service.submissions == 2


@pytest.mark.parametrize(("change", "message"), [("other", "has changed since"), ("gone", "no such file")])
def test_an_image_prompt_that_has_changed(flux: Cli, service: Service, change: str, message: str) -> None:
    """Exit 6, nothing sent; the hint is to give `--image-prompt`."""
    image = flux.cwd / "in.png"
    image.write_bytes(png())
    name = with_image_prompt(flux, "in.png")
    image.write_bytes(png(9, 9))
    if change == "gone":
        image.rename(flux.cwd / "new.png")
    done = flux("imagine", "--like", name)
    assert (done.code, service.submissions) == (6, 1)
    assert message in done.stderr
    assert "--image-prompt" in done.stderr
    body = dry_run(flux, "--like", name, "--image-prompt", "new.png" if change == "gone" else "in.png")
    assert body["image_prompt"]["sha256"] == hashlib.sha256(png(9, 9)).hexdigest()


def test_an_image_prompt_from_stdin(flux: Cli, service: Service) -> None:
    name = with_image_prompt(flux, "-", input=png())
    done = flux("imagine", "--like", name)
    assert (done.code, service.submissions) == (2, 1)
    assert "was not kept: it was not a file or URL" in done.stderr
    assert dry_run(flux, "--like", name, "--image-prompt", "-", input=png())["prompt"] == "x"


def test_an_image_prompt_from_a_url(flux: Cli, service: Service) -> None:
    """Downloaded again and compared; its credentials and query are recorded nowhere, another image is exit 2."""
    with Server({"/in.png": http(200, png())}) as server:
        url = f"{server.url}/in.png"
        name = with_image_prompt(flux, url.replace("://", "://me:hush@") + "?token=hush")
        assert dry_run(flux, "--like", name)["image_prompt"]["source"] == url
        assert "hush" not in (flux.cwd / f"{name}.json").read_text()
        assert not [path for path in flux.history_file.parent.iterdir() if b"hush" in path.read_bytes()]
        server.routes = {"/in.png": http(200, png(9, 9))}
        done = flux("imagine", "--like", name)
    assert (done.code, service.submissions) == (2, 1)
    assert "has changed since" in done.stderr


def test_hostile_sidecar(flux: Cli, service: Service) -> None:
    """A file named by a sidecar is sent only if the sidecar has the hash of its content."""
    private = flux.cwd / "private.png"
    private.write_bytes(png())
    for described in (
        {"source": str(private)},
        {"source": str(private), "sha256": None},
        {"source": str(private), "sha256": "0" * 64},
        {"source": "-", "sha256": hashlib.sha256(b"").hexdigest()},
    ):
        request = {"model": "flux-pro", "prompt": "x", "image_prompt": described}
        (flux.cwd / "evil.json").write_text(json.dumps({"flux_cli_sidecar": 1, "request": request}))
        assert flux("imagine", "--like", "evil.json").code in (2, 6)
    assert service.submissions == 0


NO_SIDECARS = {
    "empty": b"",
    "text": b"a kite",
    "other JSON": b'{"prompt": "a kite"}',
    "a list": b"[1]",
    "no request": b'{"flux_cli_sidecar": 1}',
    "a nested field": b'{"flux_cli_sidecar": 1, "request": {"prompt": {"a": 1}}}',
    "a null field": b'{"flux_cli_sidecar": 1, "request": {"prompt": null}}',
    "a newer one": b'{"flux_cli_sidecar": 2, "request": {}}',
    "deep": b"[" * 100_000,
    "too large": b'{"flux_cli_sidecar": 1, "request": {"prompt": "%s"}}' % (b"x" * sidecar.MAX_BYTES),
    "not UTF-8": b'{"flux_cli_sidecar": 1, "request": {"prompt": "\xff"}}',
}


@pytest.mark.parametrize("content", NO_SIDECARS.values(), ids=list(NO_SIDECARS))
def test_invalid_sidecars(cli: Cli, content: bytes) -> None:
    (cli.cwd / "x.json").write_bytes(content)
    done = cli("imagine", "--like", "x.json", "--dry-run")
    assert done.code == 6
    assert done.stderr.startswith("error: x.json ")
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize("command", ["imagine --dry-run --like", "show", "history"])
@pytest.mark.parametrize("name", ["64cd7965", "~nobody-has-this-name/x", "x" * 5000, "$(id)"])
def test_unknown_names(cli: Cli, command: str, name: str) -> None:
    """Neither a file nor a task: exit 6 in one short line, and no history is created."""
    done = cli(*command.split(), name)
    assert done.code == 6
    assert f"there is no file {name[:50]}" in done.stderr
    assert "no such task in the history" in done.stderr
    assert len(done.stderr) < 200
    assert not cli.history_file.exists()


def test_an_unknown_field_is_not_dropped(cli: Cli) -> None:
    """Without it the picture would differ, so it is reported; `--no-validate` sends it."""
    request = {"model": "flux-pro", "prompt": "x", "sharpness": 3}
    (cli.cwd / "x.json").write_text(json.dumps({"flux_cli_sidecar": 1, "request": request}))
    done = cli("imagine", "--like", "x.json", "--dry-run")
    assert done.code == 2
    assert "`--sharpness` is not a field of the request" in done.stderr
    assert dry_run(cli, "--like", "x.json", "--no-validate") == request


def test_which_sidecars_are_kept(tmp_path: Path) -> None:
    """One for the same task and bytes; anything else is replaced with `force` only."""
    image = tmp_path / "pic.png"
    image.write_bytes(b"bytes")

    def write(task_id: str, prompt: str, force: bool = False) -> str | None:
        more: Any = {"created": None, "service": "sandbox", "force": force}
        with contextlib.suppress(LocalFileError):
            return str(
                sidecar.read(sidecar.write(image, {"prompt": prompt}, task_id=task_id, **more)).request["prompt"]
            )
        return None

    assert write("a", "first") == write("a", "second") == "first"
    assert write("b", "third") is None
    image.write_bytes(b"other bytes")
    assert write("a", "fourth") is None
    assert write("a", "fifth", force=True) == "fifth"
    sidecar.path_for(image).write_text("mine")
    assert write("a", "sixth") is None


plain = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans())
requests = st.dictionaries(st.text().filter(lambda name: not name.startswith("webhook_")), plain)
FIXTURE = [HealthCheck.function_scoped_fixture]


@given(requests, st.text(), st.none() | st.floats(0, 4e9))
@settings(suppress_health_check=FIXTURE, max_examples=40)
def test_any_request_is_read_as_written(
    tmp_path: Path, request: dict[str, Any], task: str, created: float | None
) -> None:
    """The time to the second."""
    image = tmp_path / "pic.png"
    image.write_bytes(b"bytes")
    path = sidecar.write(image, request, task_id=task, created=created, service="sandbox", force=True)
    time, sha256 = None if created is None else int(created), hashlib.sha256(b"bytes").hexdigest()
    assert sidecar.read(path) == sidecar.Sidecar(request, task, time, "sandbox", sha256)


json_values = st.recursive(
    st.none() | plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
fields = {"flux_cli_sidecar": st.just(1) | json_values} | dict.fromkeys(
    ("request", "created", "task_id"), json_values
)


@given(st.fixed_dictionaries({}, optional=fields))
@settings(suppress_health_check=FIXTURE)
def test_any_json_is_a_sidecar_or_an_error(tmp_path: Path, value: dict[str, Any]) -> None:
    """No other exception than LocalFileError, and fields have their types."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    with contextlib.suppress(LocalFileError):
        found = sidecar.read(path)
        assert all(isinstance(each, str | int | float | bool | dict) for each in found.request.values())
        assert isinstance(found.created, float | None)
        assert isinstance(found.task_id, str | None)
