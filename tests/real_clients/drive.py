"""Runs real clients under `ddollar supervise` against upstream.py, and says what came of it.

Usage: drive.py DDOLLAR FOLDER [NAME...]     FOLDER holds what `run` has installed

Each case is a task of six tool calls in which the limit strikes in the middle. It passes when the
client has done each step once and in order, with no key pressed. A restart near a limit may strike in
the middle of a tool call, which the client then makes again: there one step may be there twice.
"""

import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

DDOLLAR = os.path.abspath(sys.argv[1])
FOLDER = pathlib.Path(sys.argv[2]).resolve()
WANTED = sys.argv[3:]
HERE = pathlib.Path(__file__).parent
TWO = {"t-1": "org-1", "t-2": "org-2"}
ONE = {"t-1": "org-1", "t-2": "org-1"}
STEPS = [f"step-{number}" for number in range(1, 7)]


class Case:
    """A desk, a provider, and one supervised command."""

    def __init__(self, config):
        self.desk = pathlib.Path(tempfile.mkdtemp(prefix="ddollar-real-"))
        self.home = self.desk / "home"
        self.project = self.desk / "project"
        self.home.mkdir()
        self.project.mkdir()
        (self.desk / "config.json").write_text(json.dumps(config))
        self.log = self.desk / "log"
        self.log.touch()
        self.upstream = subprocess.Popen(
            [sys.executable, HERE / "upstream.py", self.desk / "config.json", self.log],
            stdout=subprocess.PIPE, text=True)
        self.url = self.upstream.stdout.readline().strip()
        seed = {"hasCompletedOnboarding": True,
                "projects": {str(self.project): {"hasTrustDialogAccepted": True}}}
        (self.home / ".claude.json").write_text(json.dumps(seed))
        self.screen = b""
        self.options = []

    def environment(self, provider):
        common = {"PATH": f"{FOLDER}/bin:/usr/bin:/bin", "HOME": str(self.home), "TERM": "xterm-256color",
                  "LANG": "C.UTF-8", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
                  "CODEX_HOME": str(self.home), "LLM_USER_PATH": str(self.home)}
        if provider == "anthropic":
            return {**common, "ANTHROPIC_API_KEYS": "t-1,t-2", "ANTHROPIC_BASE_URL": self.url}
        return {**common, "OPENAI_API_KEYS": "t-1,t-2", "OPENAI_BASE_URL": f"{self.url}/v1"}

    def run(self, command, provider="anthropic", stays=False, patience=120):
        """Runs the command in a terminal until it ends, or, if it stays at its prompt, until the last
        step was answered. No key is pressed. Its status."""
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        words = [DDOLLAR, "supervise", "--interval", "2s", *self.options, "--", *command]
        process = subprocess.Popen(words, stdin=side, stdout=side, stderr=side, cwd=self.project,
                                   env=self.environment(provider), start_new_session=True,
                                   preexec_fn=lambda: os.close(main) or take_terminal())
        os.close(side)
        end = time.time() + patience
        try:
            while time.time() < end:
                if select.select([main], [], [], 0.1)[0]:
                    try:
                        data = os.read(main, 65536)
                    except OSError:
                        break
                    self.screen += data
                elif process.poll() is not None:
                    break
                if stays and self.is_answered():
                    process.send_signal(signal.SIGTERM)
                    stays = False
            else:
                raise AssertionError("it does not end")
            return process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
            os.close(main)

    def is_answered(self):
        return any(request.get("step") == len(STEPS) and request["status"] == 200 for request in self.requests())

    def steps(self):
        path = self.project / "steps.log"
        return path.read_text().split() if path.exists() else []

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def close(self):
        self.upstream.kill()
        self.upstream.wait()
        shutil.rmtree(self.desk, ignore_errors=True)


def take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def dry(tokens=None, retry_after=600, reset_in=600):
    return {"tokens": tokens or TWO, "dry": {"org-1": {"after": 3, "retry_after": retry_after, "reset_in": reset_in}}}


def near():
    return {"tokens": TWO, "near": {"org-1": 3}}


def headless(case):
    status = case.run(["claude", "-p", "do six steps", "--allowedTools", "Bash"])
    assert status == 0, status
    assert b"TASK DONE" in case.screen


def interactive(case):
    case.run(["claude", "--allowedTools=Bash", "do six steps"], stays=True)
    assert b"Do you want to use this API key" not in case.screen


def without_hooks(check):
    """The same where the client tells ddollar nothing, not even its session."""
    def run(case):
        (case.home / ".claude").mkdir()
        (case.home / ".claude" / "settings.json").write_text('{"disableAllHooks": true}')
        check(case)
        assert b"--resume" in case.screen, "no session was gone on with"
    return run


def proxied(check):
    """The same behind a proxy: the limit is met, and one process goes on from start to end without seeing it."""
    def run(case):
        case.options = ["--proxy"]
        check(case)
        assert case.screen.count(b"Launching") == 1, "started again"
        assert b"Pausing" not in case.screen and b"API Error" not in case.screen
        refused = [request for request in case.requests() if request.get("status") == 429]
        assert refused, "no limit was met"
    return run


def codex(case):
    (case.home / "config.toml").write_text(
        'model_provider = "mock"\nmodel = "gpt-6.1-sol"\n[model_providers.mock]\nname = "mock"\n'
        f'base_url = "{case.url}/v1"\nenv_key = "CODEX_API_KEY"\nwire_api = "responses"\n'
        'request_max_retries = 1\nstream_max_retries = 1\n')
    status = case.run(["codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
                       "do six steps"], provider="openai")
    assert status == 0, status


LOOP = """i=$(ls done 2>/dev/null | wc -l); mkdir -p done
while [ "$i" -lt 6 ]; do
    i=$((i + 1))
    {command} && touch "done/$i" && echo "step-$i" >>steps.log || exit 1
    sleep 1
done
"""


def loop(command, own_provider=False):
    def run(case):
        # Behind a proxy codex has its own provider, which takes an address by an argument only.
        own_provider or (case.home / "config.toml").write_text(
            'model_provider = "mock"\nmodel = "gpt-6.1-sol"\n[model_providers.mock]\nname = "mock"\n'
            f'base_url = "{case.url}/v1"\nenv_key = "OPENAI_API_KEY"\nwire_api = "responses"\n'
            'request_max_retries = 1\nstream_max_retries = 1\n')
        (case.project / "loop.sh").write_text(LOOP.replace("{command}", command))
        # The organization runs dry while the loop is under way.
        status = case.run(["sh", "loop.sh"], provider="openai")
        assert status == 0, status
        tokens = {request["token"] for request in case.requests() if not request.get("probe")}
        assert tokens == {1, 2}, tokens
    return run


def timed(tokens=None):
    """Dry after so many requests of the client, for clients whose requests tell no step."""
    return {"tokens": tokens or TWO, "steps": 0, "dry": {"org-1": {"after_requests": 3, "retry_after": 600, "reset_in": 600}}}


CASES = {
    "claude-p-final-429": (dry(), headless),
    "claude-p-own-retries": (dry(retry_after=3), headless),
    "claude-p-near-limit": (near(), headless),
    "claude-p-one-organization": (dry(ONE, retry_after=70, reset_in=12), headless),
    "claude-interactive-final-429": (dry(), interactive),
    "claude-interactive-own-retries": (dry(retry_after=3), interactive),
    "claude-interactive-near-limit": (near(), interactive),
    "claude-interactive-one-organization": (dry(ONE, retry_after=70, reset_in=12), interactive),
    "claude-p-without-hooks-near-limit": (near(), without_hooks(headless)),
    "claude-p-without-hooks-final-429": (dry(), without_hooks(headless)),
    "claude-interactive-without-hooks-near-limit": (near(), without_hooks(interactive)),
    "claude-p-proxy": (dry(), proxied(headless)),
    "claude-p-proxy-one-organization": (dry(ONE, retry_after=12, reset_in=12), proxied(headless)),
    "claude-interactive-proxy": (dry(), proxied(interactive)),
    "codex-exec": (dry(retry_after=600), codex),
    "codex-exec-near-limit": (near(), codex),
    "codex-loop-proxy": (timed(), proxied(loop(
        "CODEX_API_KEY=$OPENAI_API_KEY codex exec --skip-git-repo-check -c \"openai_base_url='$OPENAI_BASE_URL'\" 'do it' >/dev/null 2>&1 </dev/null",
        own_provider=True))),
    "llm-loop-proxy": (timed(), proxied(loop("llm -m gpt-4o-mini 'do it' >/dev/null"))),
    "llm-loop": (timed(), loop("llm -m gpt-4o-mini 'do it' >/dev/null")),
    "codex-loop": (timed(), loop("codex exec --skip-git-repo-check 'do it' >/dev/null 2>&1 </dev/null")),
}

failed = 0
for name, (config, check) in CASES.items():
    if WANTED and name not in WANTED:
        continue
    program = name.split("-")[0]
    if not (FOLDER / "bin" / program).exists():
        print(f"skipped  {name}: {program} is not installed", flush=True)
        continue
    case = Case(config)
    began = time.time()
    try:
        check(case)
        steps = case.steps()
        repeated = len(steps) - len(STEPS)
        assert list(dict.fromkeys(steps)) == STEPS, steps
        assert repeated == 0 or repeated == 1 and "near-limit" in name, steps
        print(f"passed   {name} ({time.time() - began:.0f} s)", flush=True)
    except Exception as error:
        failed += 1
        print(f"FAILED   {name}: {error!r}\n{case.screen[-3000:].decode(errors='replace')}", flush=True)
        for request in case.requests()[-20:]:
            print("        ", request)
    finally:
        case.close()
sys.exit(failed > 0)
