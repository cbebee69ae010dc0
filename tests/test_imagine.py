"""`flux-cli imagine` against the sandbox."""

import base64
import io
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from flux_cli.commands import running
from flux_cli.commands.service import Service as Connected
from tests.conftest import Cli, Service
from tests.server import Server, reply

SMALL = ("--width", "256", "--height", "256", "-q")


def png(width: int = 8, height: int = 8) -> bytes:
    """Return a small real PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def body_of(cli: Cli, *arguments: str, **more: Any) -> dict[str, Any]:
    """Return the body that a dry run prints."""
    (body,) = cli("imagine", "--dry-run", *arguments, **more).objects
    return body


def test_a_prompt_becomes_a_picture(flux: Cli, service: Service) -> None:
    done = flux("imagine", "a sunflower field in the wind", "--width", "320", "--height", "256")
    assert done.code == 0, done.stderr
    (name,) = done.lines
    assert name.startswith("a-sunflower-field-in-the-wind-")
    assert name.endswith(".png")
    assert flux.files() == [name]
    with Image.open(flux.cwd / name) as image:
        assert image.size == (320, 256)
    first, second = done.stderr.splitlines()
    assert first.startswith("submitted ")
    assert second.startswith("finished ")
    assert service.submissions == 1


def test_json_has_all_keys(flux: Cli) -> None:
    done = flux("imagine", "a [bold] kite", "--json", "--seed", "7", *SMALL)
    (task,) = done.objects
    expected = (
        "task_id task_type status percentage image_url original_image_url path original_path "
        "model prompt seed elapsed error exit_code raw"
    )
    assert list(task) == expected.split()
    assert (task["status"], task["prompt"], task["seed"], task["exit_code"]) == ("finished", "a [bold] kite", 7, 0)
    assert (done.stderr, flux.files()) == ("", [task["path"]])


ULTRA = ["-m", "flux-pro-1.1-ultra"]
FLAGS_AND_FIELDS: list[tuple[list[str], dict[str, object]]] = [
    (["-m", "flux-dev"], {"model": "flux-dev"}),
    ([*ULTRA, "--image-prompt", "in.png", "--image-prompt-strength", "0.5"], {"image_prompt_strength": 0.5}),
    ([*ULTRA, "--image-prompt", "in.png", "--image-prompt-strength", "1"], {"image_prompt_strength": 1}),
    (["--prompt-upsampling"], {"prompt_upsampling": True}),
    (["--no-prompt-upsampling"], {"prompt_upsampling": False}),
    (["--width", "256", "--height", "1440"], {"width": 256, "height": 1440}),
    ([*ULTRA, "--aspect-ratio", "21:9"], {"aspect_ratio": "21:9"}),
    (["--steps", "30"], {"steps": 30}),
    (["--guidance", "2.5"], {"guidance": 2.5}),
    (["--interval", "4"], {"interval": 4}),
    (["--seed", "-3"], {"seed": -3}),
    (["--safety-tolerance", "0"], {"safety_tolerance": 0}),
    ([*ULTRA, "--raw"], {"raw": True}),
    ([*ULTRA, "--no-raw"], {"raw": False}),
    (["--webhook-url", "https://example.com/hook"], {"webhook_url": "https://example.com/hook"}),
]


@pytest.mark.parametrize(("flags", "fields"), FLAGS_AND_FIELDS, ids=lambda value: " ".join(value))
def test_flags_become_fields(cli: Cli, flags: list[str], fields: dict[str, object]) -> None:
    """The body has only what was given, with the documented JSON type."""
    (cli.cwd / "in.png").write_bytes(png())
    body = body_of(cli, "x", *flags)
    body.pop("image_prompt", None)
    model = "flux-pro-1.1-ultra" if flags[:2] == ULTRA else "flux-pro"
    assert json.dumps(body) == json.dumps({"model": model, "prompt": "x"} | fields)


def test_the_service_receives_the_fields(flux: Cli) -> None:
    (flux.cwd / "in.png").write_bytes(png())
    ultra = ("-m", "flux-pro-1.1-ultra", "--aspect-ratio", "9:21", "--image-prompt", "in.png")
    done = flux("imagine", "a tower", *ultra, "--image-prompt-strength", "0.5", "-q")
    with Image.open(flux.cwd / done.lines[0]) as image:
        assert image.width / image.height == pytest.approx(9 / 21, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["   "], ["PROMPT must not be blank"]),
        (["x", "-m", "flux-por"], ["`--model`: unknown model `flux-por`; did you mean `flux-pro`?"]),
        (["x", "--width", "1e3"], ["`--width` must be a whole number, not `1e3`"]),
        (["x", "--guidance", "1e400"], ["`--guidance` must be a finite number, not `1e400`"]),
        (["x", *ULTRA, "--image-prompt-strength", "0.5"], ["`--image-prompt-strength` needs `--image-prompt`"]),
        (
            ["x", "--steps", "many", "--width", "1", "--raw"],
            [
                "`--steps` must be a whole number, not `many`",
                "`--width` must be 256 to 1440, not 1",
                "`--raw` needs `flux-pro-1.1-ultra`, but the model is `flux-pro`",
            ],
        ),
    ],
)
def test_all_violations_are_reported_together(
    flux: Cli, service: Service, arguments: list[str], messages: list[str]
) -> None:
    """Exit 2; each message has the flag, the value and what is allowed. Nothing is sent."""
    done = flux("imagine", *arguments)
    assert done.code == 2
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == messages
    assert (service.submissions, flux.files()) == (0, [])


def test_no_validate(flux: Cli, service: Service) -> None:
    """An unknown model is sent; the service rejects it: exit 2 and its reason."""
    done = flux.fails(2, "the service rejected the request", "imagine", "x", "-m", "flux-9", "--no-validate")
    assert "flux-9" in done.stderr
    assert service.submissions == 1


def test_sources_of_image_prompts(flux: Cli, service: Service) -> None:
    """A file, stdin and a URL are described in a dry run; the bytes are never printed."""
    (flux.cwd / "in.png").write_bytes(png())
    from_file = body_of(flux, "x", "--image-prompt", "in.png")
    from_stdin = body_of(flux, "x", "--image-prompt", "-", input=png())
    for body in (from_file, from_stdin):
        assert body["image_prompt"]["type"] == "image/png"
        assert body["image_prompt"]["bytes"] == len(png())
        assert len(body["image_prompt"]["sha256"]) == 64
        assert base64.b64encode(png()).decode() not in json.dumps(body)
    (task,) = flux("imagine", "x", "--json", *SMALL).objects
    from_url = body_of(flux, "x", "--image-prompt", task["image_url"])
    assert from_url["image_prompt"]["bytes"] == (flux.cwd / task["path"]).stat().st_size
    assert service.submissions == 1


def test_prompt_from_stdin(flux: Cli) -> None:
    """With `-`, or without an argument if stdin is piped, without line break and byte order mark."""
    for arguments in (["-"], []):
        assert body_of(flux, *arguments, input="\ufeffein Käfer 🪲\r\n")["prompt"] == "ein Käfer 🪲"


@pytest.mark.parametrize(
    ("content", "message"), [(b"caf\xe9", "stdin is not UTF-8 text"), (b" \n", "PROMPT must not be blank")]
)
def test_invalid_prompts_from_stdin(cli: Cli, content: bytes, message: str) -> None:
    cli.fails(2, message, "imagine", input=content)


def test_dry_run_needs_no_key_and_prints_no_secret(cli: Cli) -> None:
    """One body per picture on stdout, without the webhook secret."""
    flags = ("-n", "2", "--seed", "5", "--webhook-url", "https://e.org")
    done = cli("imagine", "x", "--dry-run", *flags, env={"FLUX_CLI_WEBHOOK_SECRET": "hush-hush"})
    assert [body["seed"] for body in done.objects] == [5, 6]
    assert "hush-hush" not in done.stdout + done.stderr
    assert not cli.history_file.exists()


def test_several_pictures_get_consecutive_seeds(flux: Cli, service: Service) -> None:
    done = flux("imagine", "x", "-n", "3", "--seed", "7", "-o", "{slug}-{seed}-{n}.{ext}", *SMALL)
    assert done.code == 0, done.stderr
    assert flux.files() == ["x-7-1.png", "x-8-2.png", "x-9-3.png"] == sorted(done.lines)
    assert service.submissions == 3


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("deep/er/out", "deep/er/out"),
        ("there/", "there/a-kite-{id8}.png"),
        ("existing", "existing/a-kite-{id8}.png"),
        ("{model}/{slug}_{seed}_{n}_{task_id}.{ext}", "flux-pro/a-kite_3_1_{task_id}.png"),
    ],
)
def test_forms_of_output(flux: Cli, output: str, expected: str) -> None:
    """A file, a directory or a template; directories are created as needed."""
    (flux.cwd / "existing").mkdir()
    (task,) = flux("imagine", "a kite", "--seed", "3", "--json", "-o", output, *SMALL).objects
    assert flux.files() == [expected.format(task_id=task["task_id"], id8=task["task_id"][:8])] == [task["path"]]


def test_output_to_stdout(flux: Cli) -> None:
    done = flux("imagine", "x", "-o", "-", *SMALL)
    with Image.open(io.BytesIO(done.stdout_bytes)) as image:
        assert image.format == "PNG"
    assert flux.files() == []
    assert flux.history()[0]["path"] == "-"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "there.png"], 6, "there.png exists"),
        (["-o", "there.png/x.png"], 6, "there.png"),
        (["-o", "-", "-n", "2"], 2, "accepts only one picture"),
        (["-o", "-", "--json"], 2, "both write to stdout"),
        (["-o", "one.png", "-n", "2"], 2, "one file for several pictures"),
        (["-o", "{nope}.png"], 2, "has an unknown field {nope}"),
        (["-o", ""], 2, "must not be blank"),
        (["--timeout", "nan"], 2, "`--timeout` takes seconds, or a duration like 90s, 10m or 1h, not `nan`"),
        (["--no-wait", "-o", "x.png"], 2, "`--no-wait`"),
        (["--api-url", "api.apiframe.pro"], 2, "not an http or https URL"),
        (["--api-url", "https://user:pw@example.com"], 2, "takes no user name"),
    ],
)
def test_usage_errors_before_anything_is_sent(
    flux: Cli, service: Service, arguments: Sequence[str], code: int, message: str
) -> None:
    """Existing or impossible targets, and invalid combinations; a dry run rejects the same."""
    (flux.cwd / "there.png").write_text("mine")
    for more in ([], ["--dry-run"]):
        done = flux.fails(code, message, "imagine", "x", *arguments, *more)
        assert ("Traceback" in done.stderr, done.stdout, service.submissions) == (False, "", 0)
        assert flux.files() == ["there.png"]
        assert (flux.cwd / "there.png").read_text() == "mine"


def test_a_dry_run_creates_no_directory(cli: Cli) -> None:
    assert cli("imagine", "x", "--dry-run", "-o", "new/x.png").code == 0
    assert list(cli.cwd.iterdir()) == []


def test_existing_files(flux: Cli) -> None:
    (flux.cwd / "out.png").write_text("old")
    assert flux("imagine", "x", "-o", "out.png", "--force", *SMALL).lines == ["out.png"]
    assert (flux.cwd / "out.png").read_bytes().startswith(b"\x89PNG")
    (flux.cwd / "x.png").write_text("mine")
    assert flux("imagine", "x", "-o", "{slug}.{ext}", *SMALL).lines == ["x-1.png"]
    assert (flux.cwd / "x.png").read_text() == "mine"


def test_extension_of_generated_names(flux: Cli) -> None:
    """JPEG bytes under a `.png` URL become `.jpg`. A name that the user chose is kept, with a warning."""
    prompt = "a kite [[jpeg-as-png]]"
    (name,) = flux("imagine", prompt, *SMALL).lines
    assert name.endswith(".jpg")
    assert flux("imagine", prompt, "-o", "named.png", *SMALL).lines == ["named.png"]
    assert flux("imagine", prompt, "-o", "named.jpeg", *SMALL).lines == ["named.jpeg"]
    for path in flux.cwd.iterdir():
        assert path.read_bytes().startswith(b"\xff\xd8\xff")
    done = flux("imagine", prompt, "-o", "hero.png", *SMALL[:-1])
    assert (done.lines, "warning: hero.png contains a JPEG" in done.stderr) == (["hero.png"], True)


def test_original(flux: Cli) -> None:
    done = flux("imagine", "x", "-o", "x.png", "--original", *SMALL)
    assert done.lines == ["x.png", "x-original.png"]
    assert flux.files() == sorted(done.lines)


def test_no_wait(flux: Cli) -> None:
    done = flux("imagine", "x", "--no-wait")
    (task_id,) = done.lines
    assert f"flux-cli wait {task_id}" in done.stderr
    assert flux.files() == []
    assert flux.history()[0]["status"] == "processing"


def test_without_a_key(cli: Cli, service: Service) -> None:
    cli.fails(3, "flux-cli login", "imagine", "x", "--api-url", service.url)
    assert (service.submissions, cli.history_file.exists()) == (0, False)


def test_sandbox_needs_no_key_and_keeps_tasks(cli: Cli) -> None:
    (task_id,) = cli("imagine", "a red kite [[seconds 0.5]]", "--no-wait", "--sandbox", *SMALL).lines
    looked = cli("fetch", task_id, "--sandbox")
    assert looked.stdout.startswith(f"{task_id}\t")
    done = cli("wait", "--last", "-q", env={"FLUX_CLI_SANDBOX": "1"})
    assert done.lines == [f"a-red-kite-seconds-0-5-{task_id[:8]}.png"]


def test_precedence_of_settings(flux: Cli, tmp_path: Path) -> None:
    flux.config.parent.mkdir(parents=True)
    flux.config.write_text(f'model = "flux-dev"\noutput_dir = "{tmp_path / "pictures"}"\n')
    environment = {"FLUX_CLI_MODEL": "flux-pro-1.1"}
    assert body_of(flux, "x")["model"] == "flux-dev"
    assert body_of(flux, "x", env=environment)["model"] == "flux-pro-1.1"
    assert body_of(flux, "x", "-m", "flux-schnell", env=environment)["model"] == "flux-schnell"
    (path,) = flux("imagine", "x", *SMALL).lines
    assert Path(path).parent == tmp_path / "pictures"


def test_verbose_download_and_retry(flux: Cli) -> None:
    """-v prints each request for the picture and its response; otherwise a warning says that it is retried."""
    prompt = "x [[image-http 500 1]]"
    done = flux("imagine", prompt, "-v", "-o", "y.png")
    assert (done.lines, done.stderr.count("\n> GET http")) == (["y.png"], 2)
    assert done.stderr.index("< 500") < done.stderr.index("< 200 image/png")
    warning = "warning: cannot download the picture: HTTP 500; retrying"
    assert warning in flux("imagine", prompt, "-o", "z.png").stderr
    assert flux("imagine", prompt, "-o", "q.png", "-q").stderr == ""


def test_dry_run_is_json_without_validation(flux: Cli, service: Service) -> None:
    """Numbers that are not finite are rejected all the same: JSON cannot represent them."""
    for value in ("nan", "inf", "1e400"):
        done = flux("imagine", "x", "--no-validate", "--guidance", value)
        assert (done.code, done.stdout, service.submissions) == (2, "", 0)
    (flux.cwd / "a.gif").write_bytes(b"GIF89a" + bytes(40))
    assert body_of(flux, "x", "--no-validate", "--image-prompt", "a.gif")["image_prompt"]["type"] == "image/gif"


def test_webhook_secret_from_a_flag(flux: Cli, tmp_path: Path) -> None:
    """It is sent without a webhook URL, too; the one in the environment is not."""
    secret = "abcdefghijklmnopqrst"
    assert body_of(flux, "x", "--webhook-secret", secret)["webhook_secret"] == "[redacted]"
    assert "webhook_secret" not in body_of(flux, "x", env={"FLUX_CLI_WEBHOOK_SECRET": secret})
    assert flux("imagine", "x", "--no-wait", "--webhook-secret", secret).code == 0
    with closing(sqlite3.connect(tmp_path / "sandbox" / "tasks.sqlite3")) as tasks:
        ((sent,),) = tasks.execute("SELECT body FROM tasks")
    assert json.loads(sent)["webhook_secret"] == secret


def test_violations_with_an_unreadable_image_prompt(flux: Cli, service: Service) -> None:
    """All errors in one run, exit 2; a missing file alone is exit 6."""
    (flux.cwd / "text.png").write_text("not an image")
    page = f"{service.url}/__page__"
    for image, flags, code, errors in (
        ("nope.png", ["--width", "1"], 2, ["`--width` must be 256 to 1440", "nope.png"]),
        ("nope.png", [], 6, ["nope.png"]),
        ("text.png", [], 2, ["PNG, JPEG or WebP"]),
        ("", [], 6, [""]),
        (page, [], 5, [f"`--image-prompt` cannot be downloaded from {page}"]),
    ):
        done = flux("imagine", "x", "--image-prompt", image, *flags)
        assert (done.code, done.stderr.count("error:")) == (code, len(errors))
        assert all(error in done.stderr for error in errors), done.stderr
    assert service.submissions == 0


def test_help_to_a_closed_or_full_stdout(cli: Cli) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert cli.process("--help", stdout=writing).code == 141
    os.close(writing)
    with open("/dev/full", "wb") as full:
        done = cli.process("--help", stdout=full)
    assert (done.code, done.stderr) == (6, "error: cannot write to stdout: no space left on device\n")


@pytest.mark.parametrize(
    ("prompt", "warning", "hint"),
    [
        ("a kite --ar 16:9", "`--ar 16:9`", "use --aspect-ratio 16:9 with flux-pro-1.1-ultra"),
        ("a kite --v 6 --style raw", "`--v 6`", "flags go outside the quotes"),
        ("a kite --no", "`--no`", "flags go outside the quotes"),
        ("a kite --seed=7 there", "`--seed=7`", "flags go outside the quotes"),
        *((prompt, "", "") for prompt in ("a kite -- high up", "a --kite", "well--no", "a kite -v")),
    ],
)
def test_a_flag_inside_the_prompt_is_a_warning(cli: Cli, prompt: str, warning: str, hint: str) -> None:
    """Other programs take flags from the prompt; here it is sent as it is."""
    done = cli("imagine", prompt, "--dry-run")
    expected = [f"warning: the prompt contains {warning}, which is sent as text", f"hint: {hint}"]
    assert (done.objects[0]["prompt"], done.stderr.splitlines()) == (prompt, expected if warning else [])


def test_many_pictures_are_announced_with_their_cost(flux: Cli, service: Service) -> None:
    """Above 10, one line before anything is sent, and a warning if the credits do not suffice."""
    first, *others = flux("imagine", "x", "-n", "11", "--no-wait").stderr.splitlines()
    assert first.startswith("submitting 11 pictures for about 11 credits; the account has ")
    assert not [line for line in others if line.startswith("warning")]
    assert "submitting" not in flux("imagine", "x", "-n", "10", "--no-wait").stderr
    assert service.submissions == 21


def test_a_rejected_key_stops_many_pictures_before_they_are_announced(cli: Cli, server: Server) -> None:
    server.routes = {"/account": reply({}, 401)}
    done = cli("imagine", "x", "-n", "11")
    assert (done.code, server.submissions) == (3, 0)
    assert done.stderr.splitlines()[0] == "error: the service rejected the key: HTTP 401"
    assert "submitting" not in done.stderr


@pytest.mark.parametrize(
    ("credit", "warns"), [(3, True), ("3.5", True), (12, False), ("many", False), (None, False)]
)
def test_too_few_credits_are_a_warning_at_the_start(
    capsys: pytest.CaptureFixture[str], credit: object, warns: bool
) -> None:
    """Whatever the type in which the service gives the number. The embedded sandbox is free."""
    service = Connected(mock.Mock(), "https://example.com", "https://example.com", "")
    running.announce_cost(12, service, lambda _: credit)
    assert ("warning: the account has too few credits for 12 pictures" in capsys.readouterr().err) is warns
    running.announce_cost(12, replace(service, name="sandbox"), lambda _: credit)
    assert capsys.readouterr().err == ""


def test_an_endless_prompt_is_rejected(flux: Cli, service: Service) -> None:
    with open("/dev/zero", "rb") as endless:
        done = flux.process("imagine", stdin=endless)
    assert (done.code, service.submissions) == (2, 0)
    assert done.stderr == "error: stdin has more than 1024 KiB\n"
