"""The key and the settings: `login`, `logout`, `config`, `account`, `models`."""

import os
import stat

import pytest

from tests.conftest import KEY, Cli, Service


@pytest.fixture
def keyless(cli: Cli, service: Service) -> Cli:
    """The command pointed at the sandbox, without a key."""
    cli.env["FLUX_CLI_API_URL"] = service.url
    return cli


def test_login_checks_and_stores_a_piped_key(keyless: Cli) -> None:
    """The key goes into a 0600 file in a 0700 directory, and is never printed."""
    done = keyless("login", input=KEY + "\n")
    assert done.code == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert keyless.config.read_text() == f'api_key = "{KEY}"\n'
    assert stat.S_IMODE(keyless.config.stat().st_mode) == 0o600
    assert stat.S_IMODE(keyless.config.parent.stat().st_mode) == 0o700
    assert keyless("account").code == 0


def test_a_refused_key_is_not_stored(cli: Cli, tmp_path: object) -> None:
    """401 is exit 3; with `--no-verify` nobody is asked."""
    from pathlib import Path

    from flux_cli import sandbox

    with sandbox.running(Path(str(tmp_path)) / "strict", key="the-right-key") as strict:
        env = {"FLUX_CLI_API_URL": strict.url}
        done = cli("login", input=KEY, env=env)
        assert done.code == 3
        assert "was not stored" in done.stderr
        assert KEY not in done.stderr
        assert not cli.config.exists()
        assert cli("login", "--no-verify", input=KEY, env=env).code == 0
        assert cli("account", env=env).code == 3
        assert cli("account", env={**env, "APIFRAME_API_KEY": "the-right-key"}).code == 0


@pytest.mark.parametrize(
    "key", ["", "two words", "tab\tkey", "line\nbreak", "clé-secrète-9", "esc\x1bape", "k\x7fey"]
)
def test_a_key_that_cannot_be_one_is_refused_without_an_echo(keyless: Cli, key: str) -> None:
    """From stdin and from the environment alike: exit 2 (or 3 for none at all), nothing stored or sent."""
    done = keyless("login", input=key)
    assert done.code == 2
    assert not keyless.config.exists()
    if key:
        assert key not in done.stderr
        done = keyless("account", env={"APIFRAME_API_KEY": key})
        assert done.code == 2
        assert key not in done.stdout + done.stderr


def test_logout_removes_the_key_and_keeps_the_rest(keyless: Cli) -> None:
    """Other settings and comments stay; the file keeps its mode."""
    keyless("login", "--no-verify", input=KEY)
    keyless.config.write_text("# mine\n" + keyless.config.read_text() + 'model = "flux-dev" # cheap\n')
    assert keyless("logout").code == 0
    assert keyless.config.read_text() == '# mine\nmodel = "flux-dev" # cheap\n'
    assert stat.S_IMODE(keyless.config.stat().st_mode) == 0o600
    assert keyless("account").code == 3
    assert "no key was stored" in keyless("logout").stderr


def test_config_sets_gets_lists_and_unsets(cli: Cli) -> None:
    """Every setting goes in and comes out; secrets come out masked."""
    values = {
        "api_url": "https://api.example.com",
        "model": "flux-dev",
        "output_dir": "pictures",
        "webhook_secret": "hush-hush-hush-hush",
        "sandbox": "true",
    }
    for name, value in values.items():
        assert cli("config", "set", name, value).code == 0
    assert cli("config", "get", "model").lines == ["flux-dev"]
    assert cli("config", "get", "webhook_secret").lines == ["…hush"]
    assert cli("config", "get", "api_key").code == 1
    assert [line.split(" = ")[0] for line in cli("config", "list").lines] == list(values)
    assert "hush-hush" not in cli("config", "list").stdout
    assert cli("config", "unset", "sandbox").code == 0
    assert cli("config", "get", "sandbox").code == 1
    assert cli("config", "path").lines == [str(cli.config)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "colour", "red"], "known: api_key, api_url"),
        (["get", "colour"], "known: api_key, api_url"),
        (["unset", "colour"], "known: api_key, api_url"),
        (["set", "sandbox", "perhaps"], "true or false"),
        (["set", "api_url", "api.example.com"], "not an http or https URL"),
        (["set", "api_key", KEY], "use `flux-cli login`"),
        (["set", "model", " "], "must not be empty"),
        (["sett", "model", "x"], "sett"),
    ],
)
def test_config_refuses_what_it_cannot_hold(cli: Cli, arguments: list[str], message: str) -> None:
    """Exit 2, and no file is made; a key given on the command line is not repeated."""
    done = cli("config", *arguments)
    assert done.code == 2
    assert message in done.stderr
    assert KEY not in done.stderr
    assert not cli.config.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"api_key = ", "is not TOML"),
        (b'api_key = "secret-key-123"\nmodel = [', "is not TOML"),
        (b"api_key = 3", "`api_key` has to be text"),
        (b"sandbox = 'yes'", "`sandbox` has to be true or false"),
        (b"model = ['a']", "`model` has to be text"),
        (b"\xff\xfe", "is not TOML"),
    ],
)
def test_a_config_file_that_is_not_one_is_exit_6_and_left_alone(cli: Cli, content: bytes, message: str) -> None:
    """For commands that read it and commands that write it; the key in it is not shown."""
    cli.config.parent.mkdir(parents=True)
    cli.config.write_bytes(content)
    for arguments in (["imagine", "x", "--dry-run"], ["config", "list"], ["config", "set", "model", "flux-dev"]):
        done = cli(*arguments)
        assert done.code == 6
        assert message in done.stderr
        assert "secret-key-123" not in done.stderr
        assert done.stderr.count("error:") == 1
    assert cli.config.read_bytes() == content


def test_a_setting_of_a_newer_version_does_no_harm(cli: Cli) -> None:
    """Unknown names are left alone, also when another one is changed."""
    cli.config.parent.mkdir(parents=True)
    cli.config.write_text('future = 1\nmodel = "flux-dev"\n')
    assert cli("config", "set", "model", "flux-pro").code == 0
    assert cli.config.read_text() == 'future = 1\nmodel = "flux-pro"\n'


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_a_config_file_kept_elsewhere_stays_there(cli: Cli) -> None:
    """A symbolic link, as dotfile managers make them, is written through."""
    elsewhere = cli.home / "dotfiles" / "flux.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text("# kept\n")
    cli.config.parent.mkdir(parents=True)
    cli.config.symlink_to(elsewhere)
    assert cli("config", "set", "model", "flux-dev").code == 0
    assert cli.config.is_symlink()
    assert elsewhere.read_text() == '# kept\nmodel = "flux-dev"\n'


def test_account_tells_what_the_service_tells(flux: Cli) -> None:
    """As rows and as JSON."""
    rows = dict(line.split("\t") for line in flux("account").lines)
    assert list(rows) == ["email", "credits", "total_images", "plan"]
    (before,) = flux("account", "--json").objects
    flux("imagine", "x", "--no-wait", "-q")
    (after,) = flux("account", "--json").objects
    assert after["credits"] == before["credits"] - 1


def test_models_lists_each_with_its_parameters(cli: Cli) -> None:
    """The table of rules, for people and for programs."""
    rows = dict(line.split("\t") for line in cli("models").lines)
    assert rows["flux-pro-1.1-ultra"] == "image_prompt_strength aspect_ratio raw"
    objects = {each["model"]: each["parameters"] for each in cli("models", "--json").objects}
    assert list(objects) == list(rows)
    assert "interval" in objects["flux-pro"]
    assert "interval" not in objects["flux-dev"]
    assert "prompt" in objects["flux-schnell"]


def test_an_unreachable_service_is_exit_5(cli: Cli) -> None:
    """A port where nobody listens; one line that says so."""
    env = {"APIFRAME_API_KEY": KEY, "FLUX_CLI_API_URL": "http://127.0.0.1:9"}
    done = cli("account", env=env)
    assert done.code == 5
    assert done.stderr.splitlines()[0] == "error: cannot reach http://127.0.0.1:9: connection refused"


def test_flags_choose_the_service_over_the_environment(flux: Cli, service: Service) -> None:
    """`--api-url` beats FLUX_CLI_SANDBOX, `--sandbox` beats FLUX_CLI_API_URL; both flags exclude each other."""
    assert (
        flux("account", "--api-url", f"{service.url}/", env={"FLUX_CLI_SANDBOX": "1", "FLUX_CLI_API_URL": ""}).code
        == 0
    )
    done = flux("account", "--api-url", "http://127.0.0.1:9", env={"FLUX_CLI_SANDBOX": "1"})
    assert done.code == 5
    assert flux("account", "--sandbox", env={"FLUX_CLI_API_URL": "http://127.0.0.1:9"}).code == 0
    done = flux("account", "--sandbox", "--api-url", "http://127.0.0.1:9")
    assert done.code == 2
    assert "exclude each other" in done.stderr


@pytest.mark.parametrize("setting", ["0", "1"])
def test_a_flag_is_one_whatever_the_environment_says(flux: Cli, service: Service, setting: str) -> None:
    """Both flags exclude each other also where a variable of the same meaning is set; a flag wins over both."""
    env = {"FLUX_CLI_SANDBOX": setting, "FLUX_CLI_API_URL": "http://127.0.0.1:9"}
    assert flux("account", "--sandbox", "--api-url", "http://127.0.0.1:9", env=env).code == 2
    assert flux("account", "--api-url", "http://127.0.0.1:9", env=env).code == 5
    assert flux("account", "--sandbox", env=env).code == 0
    before = service.running.stats.accepted
    done = flux("imagine", "x [[never]]", "--sandbox", "--timeout", "1", env=env)
    assert "flux-cli wait" in done.stderr
    assert done.stderr.rstrip().endswith("--sandbox")
    assert service.running.stats.accepted == before


def test_an_empty_api_url_is_not_the_default(flux: Cli, cli: Cli) -> None:
    """A script whose variable is unset must not reach the service that costs money."""
    for command in (["account"], ["imagine", "x"], ["login"]):
        done = flux(*command, "--api-url", "", input="k" * 20)
        assert done.code == 2
        assert "is not an http or https URL" in done.stderr
    assert cli("models", env={"FLUX_CLI_API_URL": ""}).code == 0


def test_a_key_that_is_too_long_is_refused_and_not_cut(keyless: Cli) -> None:
    """Half a key would be stored without a word."""
    done = keyless("login", "--no-verify", input="k" * 5000)
    assert (done.code, keyless.config.exists()) == (2, False)
    assert "longer than 4096" in done.stderr


def test_a_value_of_the_wrong_type_is_mended_by_hand(cli: Cli) -> None:
    """No command can read the file, so the hint names none."""
    cli.config.parent.mkdir(parents=True)
    cli.config.write_text('sandbox = "yes"\n')
    done = cli("config", "set", "sandbox", "true")
    assert done.code == 6
    assert done.stderr.splitlines()[1] == "hint: mend it in an editor, or remove the line"


def test_a_wrong_path_in_the_api_url_is_about_the_url(flux: Cli, service: Service) -> None:
    """There is no id to be checked."""
    done = flux("account", "--api-url", f"{service.url}/nowhere")
    assert done.code == 5
    assert done.stderr.splitlines()[1] == "hint: check --api-url"
