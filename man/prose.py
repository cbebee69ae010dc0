"""What the manual says that no table of the program says.

A mapping is keyed by such a table; the pages are not made where it does not cover that. Texts are paragraphs with
blank lines between; what stands between backticks is to be typed as it stands.
"""

from flux_cli import config, naming
from flux_cli.errors import ExitCode

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
a task.

Without `-o`, pictures go to `output_dir` from the config file or else here, under names of the form
`{naming.DEFAULT_TEMPLATE}`. The extension follows the picture's bytes, not its URL. A file that exists is never
replaced without `--force`: an explicit name is refused before anything is submitted, a made-up one gets a
number.
""",
    "fetch": """
In a pipe there is a line a task: id, status, percentage and image URL, with tabs between. Many tasks are asked
for 20 at a time. With `-o`, what is finished is downloaded as well.

How the tasks stand counts for the exit code only with `--exit-status`.
""",
    "wait": """
It does not matter where a task was submitted; for one from here the history knows the prompt, which the picture
is named after. stdout gets the path of each saved picture, with `--json` an object a task.
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
`--json`, in whole lines at every moment. Where the history does not know a row, it says which ones are over.

Where the service asks to slow down, or fails, all submissions slow down, and then recover. After five failures in
a row that no row is to blame for, such as a refused key or no credits, nothing more is submitted, and what is
under way is finished. Ctrl-C submits nothing more, tells what is under way, and ends.

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
    "config": "The names and what they mean are in flux-cli-config(5).",
    "sandbox": """
It takes what the service takes, refuses what it refuses, and draws a picture of the size that was asked for,
the same for the same request and seed. It prints its address, and the lines that point other programs to it.
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
    "seed": "The seed, or `random` where none was given.",
    "slug": "The prompt in small letters, digits and dashes.",
    "n": "1 for the first picture of a command, 2 for the second, and so on.",
    "date": "The day, as YYYY-MM-DD.",
    "ext": "The extension for the type of the picture: png, jpg or webp.",
}

ABOUT_JSON = (
    "With `--json`, stdout gets an object for each task, on a line of its own. These keys are always there:"
)

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
    "elapsed": "Seconds from the submission to the end, or null.",
    "error": "What went wrong, in a sentence, or null.",
    "exit_code": "What the exit code would be with this task alone.",
    "raw": "The service's last answer as it came, or null.",
}

ABOUT_COMPLETION = """
Commands, options, their values and the ids of tasks in the history complete in bash, zsh, fish and PowerShell. The
scripts for the first three are installed with the program, below its prefix in share/, and pipx links them from
there to ~/.local/share. bash (with bash-completion) and fish look there; zsh needs the directory in its `fpath`.
Where a script is not found, a line in the shell's start-up file does as well:
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

PLAIN_EXIT_STATUS = "0 if all is done, 2 for a wrong flag or value, 6 for a file; see flux-cli-exit-codes(7)."

ABOUT_EXIT_CODES = "Scripts may rely on these:"

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

EXIT_CODE_EXAMPLE = """\
flux-cli imagine "a lighthouse" -q
case $? in
    0) echo done ;;
    7 | 130) flux-cli wait --last ;;
    9) echo "see flux-cli history before you repeat it" ;;
    *) exit 1 ;;
esac"""

ABOUT_CONFIG = """
The settings are in a TOML file, which `flux-cli login` and `flux-cli config` write. It is made so that only you
can read it, and replaced as a whole; comments in it stay, and so do names that this version does not know.

Flags win over the environment, the environment over this file, and this file over the defaults.
"""

SETTINGS = {
    "api_key": "The key for the service. Set it with `flux-cli login`, not with `flux-cli config set`.",
    "api_url": "The service's address. Default: https://api.apiframe.pro.",
    "model": "The model of requests that name none. Default: flux-pro.",
    "output_dir": "The directory of pictures without `-o`. Default: the current one.",
    "webhook_secret": "Sent with requests that have a webhook URL, and asked for by `flux-cli listen`.",
    "sandbox": "true or false: use the embedded service unless an address is given.",
}

CONFIG_EXAMPLE = """\
# better pictures, and all in one place
model = "flux-pro-1.1"
output_dir = "/home/me/Pictures/flux\""""

VARIABLES = {
    config.KEY_VARIABLE: "The key for the service; it wins over the one that `flux-cli login` stored.",
    "NO_COLOR": "Where it is set and not empty: no colour.",
    "TERM": "Where it is `dumb`: neither colour nor bars.",
    "XDG_CONFIG_HOME": "Where the config file's directory is, instead of ~/.config.",
    "XDG_STATE_HOME": "Where the directory of the history and the sandbox is, instead of ~/.local/state.",
    "HTTPS_PROXY": "A proxy for the requests; likewise HTTP_PROXY, ALL_PROXY and NO_PROXY.",
}
"""Environment variables that no option has; an option's are told by itself."""

FILES = {
    "config": ("~/.config/flux-cli/config.toml", "The settings; see flux-cli-config(5)."),
    "history": ("~/.local/state/flux-cli/history.sqlite3", "What was submitted from here, an SQLite database."),
    "sandbox": ("~/.local/state/flux-cli/sandbox/", "The sandbox's tasks and balance."),
}
"""As they are called on Linux; `flux-cli config path` prints the first one everywhere."""

_ALL_FILES = tuple(FILES)
FILES_OF: dict[str, tuple[str, ...]] = {
    "imagine": _ALL_FILES,
    "fetch": _ALL_FILES,
    "wait": _ALL_FILES,
    "batch": _ALL_FILES,
    "history": ("history",),
    "show": ("history",),
    "gallery": ("history",),
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
    "history": ("show", "gallery", "wait"),
    "show": ("gallery", "history"),
    "gallery": ("show", "history"),
    "login": ("logout", "account"),
    "logout": ("login",),
    "config": ("login",),
    "account": ("login",),
    "models": ("imagine",),
    "listen": ("imagine", "sandbox"),
    "sandbox": ("imagine", "listen"),
}
"""The commands that a command's page points to."""
