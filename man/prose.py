"""What the manual says that no table of the program says.

A mapping is keyed by such a table; the pages are not made where it does not cover that. Texts are paragraphs with
blank lines between; what stands between backticks is to be typed as it stands.
"""

from flux_cli.errors import ExitCode
from flux_cli.pictures import naming
from flux_cli.storage.settings import KEY_VARIABLE
from flux_cli.webhooks.event import SECRET_VARIABLE

ABOUT = """
flux-cli generates images with APIFRAME's Flux endpoint: it submits a prompt, waits, and saves the picture. It
never pays twice for one request, never loses a picture that is paid for, and never says success when there is
none.

Every request is written to the history before it is sent, and its task id as soon as it arrives. A submission
is sent again only if it certainly did not arrive. Where a paid task outlives a command, the command tells its
id and how to go on with `flux-cli wait`.

stdout is data: paths of saved pictures, task ids, JSON, bytes. stderr is for people: progress, hints, errors.
Colour and bars appear on a terminal only.
"""

SHOWN = ("imagine", "wait", "batch", "history", "gallery")
"""The commands whose first example is on the page of the program."""

DESCRIPTIONS = {
    "imagine": f"""
A field of the request is sent only where it is given; else the service's default applies. All rules are checked
before anything is sent, and all that are broken are told at once, with exit code 2.

stdout gets the path of each saved picture, a line each; with `--no-wait` the task ids, with `--json` an object
a task, whose keys are in flux-cli(1).

Without `-o`, pictures go to `output_dir` from the config file or else here, under names of the form
`{naming.DEFAULT_TEMPLATE}`. The extension follows the picture's bytes, not its URL. A file that exists is never
replaced without `--force`: an explicit name is refused before anything is submitted, a made-up one gets a
number.
""",
    "fetch": """
In a pipe there is a line a task: id, status, percentage and image URL, with tabs between. Many tasks are asked
for 20 at a time. With `-o`, what is finished is downloaded as well. With `--json` there is an object a task,
whose keys are in flux-cli(1).

How the tasks stand counts for the exit code only with `--exit-status`, or where `-o` asks for one picture.
""",
    "wait": """
It does not matter where a task was submitted; for one from here the history knows the prompt, which the picture
is named after. stdout gets the path of each saved picture, with `--json` an object a task, whose keys are in
flux-cli(1).
""",
    "batch": """
What becomes of a row is in the history, by service, directory and row. A finished row is never made again, and a
submitted one is waited for. A row that never left, or that was refused for the key, for credits or for the moment,
is sent by the next run. One whose task failed, or which the service refused with 400, is sent again only with
`--retry-failed`. One that was sent and got no answer may have been billed; it is listed, and sent again only with
`--retry-unknown`.

An `image_prompt` in a row is a file, as seen from the current directory, or a URL; it is read when its row is
sent. An `output` is a file, a directory or a template below the batch's directory.

`results.jsonl` in the directory has an object for each row that is over: `row`, `line`, `service` and the keys of
`--json` in flux-cli(1), in whole lines at every moment. Where the history does not know a row, or knows only that
it was not accepted, the results say whether it is over. stdout gets what this run finishes: the paths, with
`--json` the objects; rows of earlier runs are in `results.jsonl` alone.

Where the service asks to slow down, or fails, all submissions slow down, and then recover. After five failures in
a row that no row is to blame for, such as a refused key or no credits, nothing more is submitted, and what is
under way is finished; submissions that were under way together count as one. Ctrl-C submits nothing more, tells
what is under way, and ends. A run that ends by `--max-tasks` says how many rows were not sent; its exit code is
that of the rows that were.

A second run of rows that another run works on is refused. Shards of one batch may run at once. On one machine
they share the history; on several, each needs one of its own that outlives it: set `XDG_STATE_HOME` to a
directory for each shard.

The exit code is that of the worst row, rows of earlier runs included.
""",
    "history": """
A submission is written down before it is sent, so that after a crash at any moment the history says what may
have been billed and what can still be waited for. In a pipe there is a line a submission, with tabs between.
""",
    "login": """
The key is checked with the service before it is stored in a file that only you can read. There is no flag for
the key, since command lines are public.
""",
    "config": """
The names and what they mean are in flux-cli-config(5). `list` shows what is in effect and where it comes from:
the environment, the file or the default. `get` shows what the file sets.
""",
    "listen": f"""
It takes what is posted to `/webhook` at an address that it tells on stderr. Give that address as `--webhook-url`
to `flux-cli imagine` or `flux-cli batch`, with the same secret. The service reaches this machine only through a
tunnel or a proxy, whose public URL is then the one to give; a sandbox on this machine needs neither.

Without a secret it refuses to start, with exit code 2, since anybody could send webhooks. The secret is the first
line of `--secret-file`, else what `{SECRET_VARIABLE}` holds, else `webhook_secret` in the config file. A request
that does not carry it is answered with 401 and changes nothing. Only `--insecure` does without a secret.

The secret vouches for the sender, not for what is said. So where a webhook says that a task is over, listen asks
the service, and goes by its answer: only then is the picture saved. Without an API key the service cannot be
asked; listen warns of that, and believes what comes.

stdout gets a line an event: the task's id, its status, its percentage, and its file, URL or error, with tabs
between; with `--json` an object an event, whose keys are in flux-cli(1). An event that came before is not printed
again, nor is one of a task that is over and saved. `-o` takes no `-`, since events go to stdout.

It runs until it is interrupted, and then ends after what is under way, or until `--until`. What is sent while
nobody listens is missed: `flux-cli wait --all` gets those pictures.
""",
    "sandbox": """
It accepts and rejects what the service does, with the same status codes and bodies, and renders a picture of the
requested size: the same bytes for the same request and seed. It prints its address, and the lines that configure
other programs to use it.
""",
}
"""What a command's help leaves to its page."""

ABOUT_TEMPLATES = """
`-o` names a file or a directory (one that exists or ends in a slash), or is a template: a path with some of the
following in it. Each is made safe as a part of a file name.
"""

TEMPLATE_FIELDS = {
    "task_id": "The task's id.",
    "id8": "The first eight characters of the task's id.",
    "model": "The model.",
    "seed": "The seed, or the word `random` where none was given.",
    "slug": "The prompt in small letters, digits and dashes.",
    "n": "1 for the first picture of a command, 2 for the second, and so on.",
    "date": "The day, as YYYY-MM-DD.",
    "ext": "The extension for the type of the picture: png, jpg or webp.",
}

ABOUT_JSON = """
With `--json`, stdout gets an object for each task, on a line of its own, for tasks that fail too. What is refused
before there is a task, such as a wrong flag, a missing key or a history that cannot be used, is told on stderr and
by the exit code alone.

`flux-cli batch` puts the keys `row` and `line` before the others, `flux-cli listen` prints an object for each
event, and `account`, `history` and `models` print objects of their own. Of a task these keys are always there:
"""

JSON_KEYS = {
    "task_id": "The task's id; null where the submission was not accepted.",
    "task_type": "The service's word for the kind of task, or null.",
    "status": "processing, finished, failed, unknown (sent, no answer came) or unsent (never left this machine).",
    "percentage": "0 to 100, or null.",
    "image_url": "Where the service has the picture for a while, or null.",
    "original_image_url": "The same for the original picture, where there is one.",
    "path": "The saved picture, or null.",
    "original_path": "The saved original picture, or null.",
    "model": "The model, or null where it is not known.",
    "prompt": "The prompt, or null where it is not known.",
    "seed": "The seed, or null where none was given.",
    "elapsed": """
        Seconds from the submission, or for `wait` and `fetch` from the command's start, to the end; null where
        nothing was waited for.
    """,
    "error": "What went wrong, in a sentence, or null.",
    "exit_code": "What the exit code would be with this task alone.",
    "raw": "The service's last answer as it came, or null.",
}

ABOUT_COMPLETION = """
Commands, options, their values and the ids of tasks in the history complete in bash, zsh, fish and PowerShell. The
scripts for the first three are installed with the program, below its prefix in share/, and pipx 1.16 or newer
links them from there to ~/.local/share; an older one and uv do not. bash (with bash-completion) and fish look
there; zsh needs the directory in its `fpath`. Where a script is not found, a line in the shell's start-up file
does as well:
"""

COMPLETION_EXAMPLE = """\
# ~/.bashrc
source <(flux-cli --show-completion bash)

# ~/.zshrc, before compinit: where the script is linked
fpath=(~/.local/share/zsh/site-functions $fpath)
# ~/.zshrc, after compinit: where it is not
source <(flux-cli --show-completion zsh)

# ~/.config/fish/config.fish
flux-cli --show-completion fish | source

# PowerShell's $PROFILE
flux-cli --show-completion powershell | Out-String | Invoke-Expression"""

ABOUT_MODELS = "Of the options of a request only some models take these; all of them take the others."

ABOUT_EXIT_CODES = "The exit code says what became of a command; scripts may rely on it."

EXIT_CODES = {
    ExitCode.OK: "All done.",
    ExitCode.UNEXPECTED: "Unexpected: a bug, or an answer that cannot be understood.",
    ExitCode.USAGE: """
        A flag, a value or a combination that the rules do not allow. Where it was found here, nothing was sent;
        where the service found it, nothing was accepted.
    """,
    ExitCode.NOT_ALLOWED: "Not allowed: no key, a key that the service refuses, or no credits left.",
    ExitCode.TASK_FAILED: "The task failed, or the service does not know it.",
    ExitCode.SERVICE_DOWN: "The service cannot be reached or keeps failing; a later try may work.",
    ExitCode.LOCAL_FILE: """
        A local file exists, cannot be read or written, or is not what it should be; or the disk is full.
    """,
    ExitCode.GAVE_UP_WAITING: "Gave up waiting; the task still runs and can be waited for again.",
    ExitCode.STILL_RUNNING: "Still running; from `flux-cli fetch --exit-status` alone.",
    ExitCode.OUTCOME_UNKNOWN: """
        The outcome of a submission is unknown: it may have been accepted, and billed. It is never sent again by
        itself.
    """,
    ExitCode.SIGHUP: "The terminal was closed (SIGHUP).",
    ExitCode.SIGINT: "Interrupted, as by Ctrl-C (SIGINT).",
    ExitCode.SIGPIPE: "Nobody reads stdout any more (a closed pipe).",
    ExitCode.SIGTERM: "Ended from outside (SIGTERM).",
}

ABOUT_WORST = "Of several tasks the one that comes first in this order speaks for all: {}."

_BUG = "Unexpected: a bug in flux-cli."
_WRONG = "A flag or a value that is not allowed."
_TASKS: dict[int, str | None] = {0: None, 1: _BUG, 2: None, 3: None, 4: None, 5: None, 6: None, 7: None}
_ACCOUNT: dict[int, str | None] = {
    0: None,
    1: None,
    2: None,
    3: None,
    4: "The service does not know the address that was asked for; see `--api-url`.",
    5: None,
    6: "The config file cannot be read, or is not what it should be.",
}
EXIT_CODES_OF: dict[str, dict[int, str | None]] = {
    "imagine": {**_TASKS, 9: None},
    "fetch": {
        **_TASKS,
        0: "All tasks were looked at; with `--exit-status`, all are finished.",
        1: None,
        4: """
            The service does not know a task; or one failed, which counts with `--exit-status` or where `-o` asks
            for one picture.
        """,
        7: "`-o` asks for one picture, and the task still runs.",
        8: "With `--exit-status`: a task still runs.",
    },
    "wait": _TASKS,
    "batch": {**_TASKS, 9: None},
    "history": {
        0: None,
        1: _BUG,
        2: _WRONG,
        6: "The history cannot be read, or does not have the picture or task.",
    },
    "forget": {0: None, 1: _BUG, 2: _WRONG, 6: "The history cannot be written, or does not have a task."},
    "show": {
        0: None,
        1: _BUG,
        2: "A flag or a value that is not allowed, or nothing to show a picture with.",
        6: "There is no such file or task, its picture is not here, or it is no picture.",
    },
    "gallery": {
        0: None,
        1: _BUG,
        2: "A flag or a value that is not allowed, or nothing to open the page with.",
        6: "There are no pictures; or a file exists, cannot be read or cannot be written.",
    },
    "login": {**_ACCOUNT, 6: "The config file cannot be read or written, or is not what it should be."},
    "logout": {
        0: "The key is removed, or there was none.",
        1: _BUG,
        2: _WRONG,
        6: "The config file cannot be read or written, or is not what it should be.",
    },
    "config": {
        0: None,
        1: "From `config get`: the setting is not set. Else a bug in flux-cli.",
        2: "A flag, a name or a value that is not allowed.",
        6: "The config file cannot be read or written, or is not what it should be.",
    },
    "account": _ACCOUNT,
    "models": {0: None, 1: _BUG, 2: _WRONG, 6: "stdout cannot be written."},
    "listen": {
        0: "As many tasks are over as `--until` names, and all are finished.",
        1: None,
        2: """
            A flag or a value that is not allowed, no webhook secret, a port that is taken, or the extra that is
            not installed.
        """,
        3: "The service refused the key.",
        4: "A task failed.",
        5: "A picture could not be had.",
        6: None,
    },
    "sandbox": {
        0: "The list of faults was printed; else the sandbox runs until it is interrupted.",
        1: _BUG,
        2: "A flag or a value that is not allowed, a port that is taken, or the extra that is not installed.",
        6: "The directory of its tasks cannot be used.",
    },
}
"""The exit codes that a command may end with but for those of signals; None for what a code says in general."""

ABOUT_SIGNALS = """
A signal, such as Ctrl-C, or a closed pipe ends it with 128 and the signal's number. See flux-cli-exit-codes(7).
"""

EXIT_CODE_EXAMPLE = """\
flux-cli imagine "a lighthouse" -q
case $? in
    0) echo done ;;
    7 | 130) flux-cli wait --last ;;
    9) echo "see flux-cli history before you repeat it" ;;
    *) exit 1 ;;
esac"""

ABOUT_CONFIG = """
The settings are in a TOML file, which `flux-cli login` and `flux-cli config` write. Only you can read it, and it
is replaced in one step; comments in it stay, and so do names that this version does not know.

Flags override the environment, the environment overrides this file, and this file overrides the defaults. A
default for a request flag applies to the models that accept it. The table `models` has tables with defaults for
one model, which override the others: `flux-cli config set models.flux-pro.steps 40` writes one. The rows of a
batch override both; `--like` ignores both.
"""

CONFIG_EXAMPLE = """\
# better pictures, and all in one place
model = "flux-pro-1.1"
output_dir = "/home/me/Pictures/flux"
timeout = "20m"

[models."flux-pro-1.1-ultra"]
aspect_ratio = "21:9"
"""

KEY = {KEY_VARIABLE: "The key for the service; it wins over the one that `flux-cli login` stored."}
SECRET = {
    SECRET_VARIABLE: """
        The default for `--webhook-secret`, sent where there is a webhook URL; what `flux-cli listen` asks for.
    """
}
LOOKS = {
    "NO_COLOR": "Where it is set and not empty: no colour.",
    "TERM": "Where it is `dumb`: no colour, bars or pictures.",
}
DIRECTORIES = {
    "XDG_CONFIG_HOME": "Where the config file's directory is, instead of ~/.config.",
    "XDG_STATE_HOME": "Where the directory of the history and the sandbox is, instead of ~/.local/state.",
}
NETWORK = {
    "HTTPS_PROXY": "A proxy for the requests; likewise HTTP_PROXY, ALL_PROXY and NO_PROXY.",
    "REQUESTS_CA_BUNDLE": "A file of the certificate authorities to trust, instead of the usual ones.",
}
"""Environment variables by what they are about; those of options are found there, and told where these do not."""

_PREVIEWS = {"NO_COLOR": "Where it is set and not empty: no colour, and no picture that is made of half blocks."}
VARIABLES_OF: dict[str, dict[str, str]] = {
    "imagine": _PREVIEWS,
    "wait": _PREVIEWS,
    "show": _PREVIEWS,
    "logout": {KEY_VARIABLE: "Where it is set, a key is used even after logout, which warns of that."},
    "listen": {
        SECRET_VARIABLE: "The secret that webhooks have to carry; `--secret-file` wins over it.",
    },
}
"""What a variable does for one command, where there is more to say than in general."""

NO_VARIABLES = "What the codes mean depends on no variable."

FILES = {
    "config": ("~/.config/flux-cli/config.toml", "The settings; see flux-cli-config(5)."),
    "history": ("~/.local/state/flux-cli/history.sqlite3", "What was submitted from here, an SQLite database."),
    "sandbox": ("~/.local/state/flux-cli/sandbox/", "The sandbox's tasks and balance."),
    "sidecar": ("PICTURE.json", "What made a picture, beside it: from `--sidecar`, for `--like` and the gallery."),
    "results": ("DIR/results.jsonl", "What has become of each row of a batch."),
    "gallery": ("gallery.html", "The page of `flux-cli gallery`, unless `-o` names another."),
}
"""As they are called on Linux; `flux-cli config path` prints the first one everywhere."""

NO_FILES = "None: what it shows is a part of the program."
CONFIG_FILE = "What this page is about. `flux-cli config path` prints where it is on any system."
RECORDED_CODES = "It has the exit code of each submission that is over; `flux-cli history --json` prints them."
CONFIG_EXIT_STATUS = """
A file that cannot be read, is not TOML, or has a value of the wrong type ends every command that needs it with 6.
See flux-cli-exit-codes(7).
"""

_ALL_FILES = ("config", "history", "sandbox")
FILES_OF: dict[str, tuple[str, ...]] = {
    "imagine": (*_ALL_FILES, "sidecar"),
    "fetch": _ALL_FILES,
    "wait": (*_ALL_FILES, "sidecar"),
    "batch": (*_ALL_FILES, "sidecar", "results"),
    "history": ("history",),
    "forget": ("history",),
    "show": ("history",),
    "gallery": ("history", "sidecar", "gallery"),
    "login": ("config",),
    "logout": ("config",),
    "config": ("config",),
    "account": ("config", "sandbox"),
    "models": (),
    "listen": _ALL_FILES,
    "sandbox": ("sandbox",),
}

RELATED: dict[str, tuple[str, ...]] = {
    "imagine": ("wait", "batch", "models", "history"),
    "fetch": ("wait", "history"),
    "wait": ("fetch", "imagine", "history"),
    "batch": ("imagine", "models", "history"),
    "history": ("show", "gallery", "wait", "forget"),
    "forget": ("history", "wait"),
    "show": ("gallery", "history"),
    "gallery": ("show", "history"),
    "login": ("logout", "account"),
    "logout": ("login",),
    "config": ("login",),
    "account": ("login",),
    "models": ("imagine",),
    "listen": ("imagine", "wait", "sandbox"),
    "sandbox": ("imagine", "listen"),
}
"""The commands that a command's page points to."""
