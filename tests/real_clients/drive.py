"""Runs real clients under `ddollar supervise` against upstream.py, and says what came of it.

Usage: drive.py DDOLLAR FOLDER [NAME...]     FOLDER holds what `run` has installed; a NAME may be a prefix

Each case is a task of six shell steps in which the limit strikes in the middle. It passes when the client
has done each step once and in order, with no key pressed, and has left nothing behind. The cells of the
matrix are named CLIENT-MODE-PLACE: MODE is `default`, or `plain` with --no-proxy; PLACE is `headless`, or
`tmux`, in which the client stays at its prompt and is ended when its last step has been answered. A cell
that cannot pass says so itself at the start: then `told` is printed, with the sentence.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

DDOLLAR = os.path.abspath(sys.argv[1])
FOLDER = pathlib.Path(sys.argv[2]).resolve()
WANTED = sys.argv[3:]
HERE = pathlib.Path(__file__).parent
TWO = {"t-1": "org-1", "t-2": "org-2"}
ONE = {"t-1": "org-1", "t-2": "org-1"}
STEPS = [f"step-{number}" for number in range(1, 7)]
PROMPT = "do six steps"
HELP = subprocess.run([DDOLLAR, "help", "supervise"], capture_output=True, text=True).stdout
MODES = {"default": [], "plain": ["--no-proxy"]}
if "--no-proxy" not in HELP:
    MODES = {"default": ["--proxy"], "plain": []}


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
        self.screen = ""
        self.said = ""
        self.options = []
        self.extra = {}
        self.steps_wanted = STEPS
        self.tmux = ["tmux", "-L", self.desk.name, "-f", "/dev/null"]

    def write(self, name, text):
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    def environment(self, provider):
        common = {"PATH": f"{FOLDER}/bin:/usr/bin:/bin", "HOME": str(self.home), "TERM": "xterm-256color",
                  "LANG": "C.UTF-8", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
                  "CODEX_HOME": str(self.home / ".codex"), "LLM_USER_PATH": str(self.home), "SHELL": "/bin/bash",
                  "XDG_STATE_HOME": str(self.home / "state"), **self.extra}
        return {**common, **{
            "anthropic": {"ANTHROPIC_API_KEYS": "t-1,t-2", "ANTHROPIC_BASE_URL": self.url},
            "openai": {"OPENAI_API_KEYS": "t-1,t-2", "OPENAI_BASE_URL": f"{self.url}/v1"},
            "gemini": {"GEMINI_API_KEYS": "t-1,t-2", "GOOGLE_GEMINI_BASE_URL": self.url},
        }[provider]}

    def start(self, command, provider, folder=None):
        words = [DDOLLAR, "supervise", "--interval", "2s", *self.options, "--", *command]
        folder = folder or self.project
        out = open(self.desk / "out", "ab")
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=folder,
                                env=self.environment(provider), start_new_session=True)

    def headless(self, command, provider="anthropic", patience=240):
        """Runs the command without a terminal. Its status."""
        process = self.start(command, provider)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError("it does not end") from None
        finally:
            self.end(process)
            self.screen = self.said = (self.desk / "out").read_text(errors="replace")

    def end(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def interactive(self, command, provider="anthropic", patience=300):
        """Runs the command in tmux until the last step was answered, and ends it. No key is pressed."""
        import shlex
        words = [DDOLLAR, "supervise", "--log", str(self.desk / "ddollar.log"), "--interval", "2s", *self.options,
                 "--", *command]
        line = f"cd {self.project} && {shlex.join(words)}; echo \"status $?\" >{self.desk}/status; cat"
        subprocess.run([*self.tmux, "new-session", "-d", "-x", "120", "-y", "40", "-s", "it", "sh", "-c", line],
                       env=self.environment(provider), check=True)
        subprocess.run([*self.tmux, "set-option", "-g", "remain-on-exit", "on"])
        end = time.time() + patience
        status = self.desk / "status"
        try:
            while time.time() < end and not status.exists() and not self.is_answered():
                time.sleep(0.3)
            self.screen = subprocess.run([*self.tmux, "capture-pane", "-p", "-t", "it", "-S", "-200"],
                                         capture_output=True, text=True).stdout
            assert status.exists() or self.is_answered(), "it stands still"
            time.sleep(0.5)
            self.terminate()
            for _ in range(200):
                if status.exists():
                    break
                time.sleep(0.1)
            assert status.exists(), "it does not end"
        finally:
            log = self.desk / "ddollar.log"
            self.said = log.read_text(errors="replace") if log.exists() else ""
            self.screen = subprocess.run([*self.tmux, "capture-pane", "-p", "-t", "it", "-S", "-200"],
                                         capture_output=True, text=True).stdout or self.screen
            self.terminate(signal.SIGKILL)
            subprocess.run([*self.tmux, "kill-server"], capture_output=True)

    def processes(self):
        """What runs on this desk: the supervised command and what it has started."""
        mark = f"HOME={self.home}".encode()
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                pass
        return found

    def terminate(self, signal_=signal.SIGTERM):
        for pid, words in self.processes():
            if words.startswith(DDOLLAR + " supervise"):
                os.kill(pid, signal_)

    def is_answered(self):
        last = len(self.steps_wanted)
        if self.steps()[-1:] != self.steps_wanted[-1:]:
            return False  # Threads beside the task may have come to its end before it.
        return any(request.get("step") == last and request["status"] == 200 for request in self.requests())

    def steps(self):
        path = self.project / "steps.log"
        return path.read_text().split() if path.exists() else []

    def requests(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def left_behind(self):
        for _ in range(30):
            found = [words for _, words in self.processes() if "tmux" not in words and words]
            if not found:
                return []
            time.sleep(0.1)
        return found

    def close(self):
        self.upstream.kill()
        self.upstream.wait()
        for pid, _ in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        shutil.rmtree(self.desk, ignore_errors=True)


def dry(tokens=None, retry_after=600, reset_in=600, **more):
    plan = {"after": 3, "retry_after": retry_after, "reset_in": reset_in, **more}
    return {"tokens": tokens or TWO, "dry": {"org-1": plan}}


def near():
    return {"tokens": TWO, "near": {"org-1": 3}}


# The clients of the matrix: provider, the model that runs dry, how they are prepared, and their lines.

def claude(case):
    case.write(".claude.json", {"hasCompletedOnboarding": True,
                                "projects": {str(case.project): {"hasTrustDialogAccepted": True}}})
    return (["claude", "-p", PROMPT, "--allowedTools", "Bash"], ["claude", "--allowedTools=Bash", PROMPT])


def codex(case):
    own = ["-c", f'openai_base_url="{case.url}/v1"'] if case.mode == "plain" else []
    case.write(".codex/config.toml", f'[projects."{case.project}"]\ntrust_level = "trusted"\n')
    free = ["--dangerously-bypass-approvals-and-sandbox"]
    return (["codex", *own, "exec", "--skip-git-repo-check", *free, PROMPT], ["codex", *own, *free, PROMPT])


def gemini(case):
    case.write(".gemini/settings.json", {"security": {"auth": {"selectedType": "gemini-api-key"}},
                                         "general": {"enableAutoUpdate": False}, "ui": {"hideBanner": True}})
    case.write(".gemini/trustedFolders.json", {str(case.project): "TRUST_FOLDER"})
    return (["gemini", "--skip-trust", "--yolo", "-p", PROMPT], ["gemini", "--skip-trust", "--yolo", "-i", PROMPT])


def opencode(case):
    case.extra["OPENCODE_DISABLE_MODELS_FETCH"] = "1"
    case.extra["OPENCODE_DISABLE_AUTOUPDATE"] = "1"
    if case.mode == "plain":
        case.extra["OPENCODE_CONFIG_CONTENT"] = json.dumps(
            {"provider": {"anthropic": {"options": {"baseURL": f"{case.url}/v1"}}}})
    case.write(".config/opencode/opencode.json", {"permission": "allow"})
    model = ["--model", "anthropic/claude-opus-5-5"]
    return (["opencode", "run", *model, PROMPT], ["opencode", *model, "--prompt", PROMPT])


def aider(case):
    """Its task is four edits: it stops by itself after three reflections."""
    case.steps_wanted = STEPS[:4]
    (case.project / "steps.log").touch()
    test = "test $(wc -l <steps.log) -ge 4 || { echo more; exit 1; }"
    common = ["aider", "--model", "openai/gpt-6-luna", "--edit-format", "whole", "--no-git", "--yes-always",
              "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes", "--no-analytics",
              "--no-suggest-shell-commands", "--map-tokens", "0", "--auto-test", "--test-cmd", test]
    return ([*common, "--message", PROMPT, "steps.log"], None)


def llm(case):
    (case.project / "loop.sh").write_text(LOOP.replace("{command}", "llm -m gpt-4o-mini 'do it' >/dev/null"))
    return (["sh", "loop.sh"], None)


def copilot(case):
    case.extra.update({"COPILOT_PROVIDER_BASE_URL": f"{case.url}/v1", "COPILOT_MODEL": "gpt-5.1",
                       "COPILOT_OFFLINE": "true", "COPILOT_AUTO_UPDATE": "false", "COPILOT_ALLOW_ALL": "true"})
    return (["copilot", "--allow-all-tools", "-p", PROMPT], ["copilot", "--allow-all-tools", "-i", PROMPT])


def qwen(case):
    case.extra["OPENAI_MODEL"] = "qwen3-coder"
    case.write(".qwen/settings.json", {"security": {"auth": {"selectedType": "openai"}},
                                       "general": {"disableAutoUpdate": True, "disableUpdateNag": True}})
    return (["qwen", "--yolo", "--auth-type", "openai", PROMPT],
            ["qwen", "--yolo", "--auth-type", "openai", "-i", PROMPT])


LOOP = """i=$(ls done 2>/dev/null | wc -l); mkdir -p done
while [ "$i" -lt 6 ]; do
    i=$((i + 1))
    {command} && touch "done/$i" && echo "step-$i" >>steps.log || exit 1
    sleep 1
done
"""

CLIENTS = {
    "claude": ("anthropic", "claude-opus", claude), "codex": ("openai", "gpt-6", codex),
    "gemini": ("gemini", "", gemini), "opencode": ("anthropic", "claude-opus", opencode),
    "aider": ("openai", "gpt-6-luna", aider), "llm": ("openai", "gpt-4o-mini", llm),
    "copilot": ("openai", "gpt-5.1", copilot), "qwen": ("openai", "qwen3-coder", qwen),
}


def cell(client, mode, place):
    provider, model, prepare = CLIENTS[client]
    plan = {"after_requests": 3} if client == "llm" else {"after": 2 if client == "aider" else 3}
    config = {"tokens": TWO, "dry": {"org-1": {"retry_after": 600, "reset_in": 600, "model": model, **plan}}}
    if client == "llm":
        config["steps"] = 0
    if client == "aider":
        config["steps"] = 4

    def run(case):
        case.mode = mode
        # A loop in a shell is any command, which goes through the proxy only when that is asked for.
        case.options = ["--proxy"] if client == "llm" and mode == "default" else MODES[mode]
        headless, interactive = prepare(case)
        if place == "headless":
            status = case.headless(headless, provider)
            assert status == 0, f"status {status}"
        else:
            case.interactive(interactive, provider)
        tokens = {request["token"] for request in case.requests() if not request.get("probe") and "token" in request}
        assert tokens == {1, 2}, f"tokens {tokens}"
        if mode == "default":
            assert case.said.count("Launching") == 1, "started again"
    return config, run


# Cases beside the matrix.

def headless(case):
    lines = claude(case)
    status = case.headless(lines[0])
    assert status == 0, status
    assert "TASK DONE" in case.screen


def interactive(case):
    case.interactive(claude(case)[1])
    assert "Do you want to use this API key" not in case.said


def plain(check):
    def run(case):
        case.mode = "plain"
        case.options = MODES["plain"]
        check(case)
    return run


def proxied(check):
    """Behind the proxy: the limit is met, and one process goes on from start to end without seeing it."""
    def run(case):
        case.mode = "default"
        case.options = MODES["default"]
        check(case)
        assert case.said.count("Launching") == 1, "started again"
        assert "Pausing" not in case.said and "API Error" not in case.screen
        assert any(request.get("status") == 429 for request in case.requests()), "no limit was met"
    return run


def without_hooks(check):
    """The client reports nothing, not even its session."""
    def run(case):
        case.write(".claude/settings.json", '{"disableAllHooks": true}')
        check(case)
        assert "--resume" in case.said, "no session was resumed"
    return run


def not_persistent(case):
    """Nothing is kept of such a session, so the line is repeated."""
    status = case.headless([*claude(case)[0], "--no-session-persistence"])
    assert status == 0, status
    assert set(case.steps()) == set(STEPS), case.steps()
    case.steps_wanted = case.steps()


def revoked(client):
    """The first token is unknown to the provider."""
    def run(case):
        case.options = MODES[case.mode]
        status = case.headless(CLIENTS[client][2](case)[0], CLIENTS[client][0])
        assert status == 0, status
    return run


def beside(client):
    """While the client waits for its limit, another one begins in the same folder."""
    def run(case):
        provider, _, prepare = CLIENTS[client]
        case.options = MODES[case.mode]
        line = prepare(case)[0]
        other = [word.replace(PROMPT, "another task") for word in line]
        process = case.start(line, provider)
        try:
            while case.steps()[-1:] != ["step-2"] and process.poll() is None:
                time.sleep(0.1)
            environment = {**case.environment(provider), "ANTHROPIC_API_KEY": "t-2", "OPENAI_API_KEY": "t-2",
                           "CODEX_API_KEY": "t-2", "GEMINI_API_KEY": "t-2"}
            if client == "codex":
                other[1:1] = ["-c", f'openai_base_url="{case.url}/v1"']
            if client == "opencode":
                environment["ANTHROPIC_BASE_URL"] = f"{case.url}/v1"
            subprocess.run(other, env=environment, cwd=case.project, stdin=subprocess.DEVNULL, timeout=90,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            status = process.wait(150)
        finally:
            case.end(process)
            case.screen = case.said = (case.desk / "out").read_text(errors="replace")
        assert any(request.get("other") for request in case.requests()), "the other has not asked"
        assert status == 0, status
    return run


def in_mode(mode, check):
    def run(case):
        case.mode = mode
        check(case)
    return run


def script(interpreter, text, provider):
    """A script on a vendor's package: a generic command, which finishes behind the proxy without a restart."""
    def run(case):
        case.mode = "default"
        (case.project / "it.py").write_text(text)
        status = case.headless([str(FOLDER / interpreter), "it.py"], provider)
        assert status == 0, status
        assert case.said.count("Launching") == 1, "started again"
        assert {request["token"] for request in case.requests() if not request.get("probe")} == {1, 2}
    return run


EACH = "for n in range(1, 7):\n    {ask}\n    open('steps.log', 'a').write('step-%d\\n' % n)\n"
SCRIPTS = {
    "sdk-anthropic": ("anthropic", "import anthropic\nc = anthropic.Anthropic()\n" + EACH.format(
        ask="c.messages.create(model='claude-opus-5-5', max_tokens=9, messages=[{'role': 'user', 'content': 'x'}])")),
    "sdk-openai": ("openai", "import openai\nc = openai.OpenAI()\n" + EACH.format(
        ask="c.chat.completions.create(model='gpt-6-luna', messages=[{'role': 'user', 'content': 'x'}])")),
    "sdk-google-genai": ("gemini", "from google import genai\nc = genai.Client()\n" + EACH.format(
        ask="c.models.generate_content(model='gemini-3-flash', contents='x')")),
}


def timed():
    """Dry after so many requests of the client, for clients whose requests tell no step."""
    return {"tokens": TWO, "steps": 0, "dry": {"org-1": {"after_requests": 3, "retry_after": 600, "reset_in": 600}}}


CASES = {}
for name in CLIENTS:
    for mode in MODES:
        for place in ("headless", "tmux"):
            if place == "headless" or name not in ("aider", "llm"):
                CASES[f"{name}-{mode}-{place}"] = cell(name, mode, place)
CASES |= {
    "claude-p-final-429": (dry(), plain(headless)),
    "claude-p-own-retries": (dry(retry_after=3), plain(headless)),
    "claude-p-near-limit": (near(), plain(headless)),
    "claude-p-one-organization": (dry(ONE, retry_after=70, reset_in=12), plain(headless)),
    "claude-interactive-final-429": (dry(), plain(interactive)),
    "claude-interactive-own-retries": (dry(retry_after=3), plain(interactive)),
    "claude-interactive-near-limit": (near(), plain(interactive)),
    "claude-interactive-one-organization": (dry(ONE, retry_after=70, reset_in=12), plain(interactive)),
    "claude-p-without-hooks-near-limit": (near(), plain(without_hooks(headless))),
    "claude-p-without-hooks-final-429": (dry(), plain(without_hooks(headless))),
    "claude-interactive-without-hooks-near-limit": (near(), plain(without_hooks(interactive))),
    "claude-p-proxy-one-organization": (dry(ONE, retry_after=12, reset_in=12), proxied(headless)),
    "claude-interactive-proxy": (dry(), proxied(interactive)),
    "claude-no-session-persistence": (dry(), plain(not_persistent)),
}
for name in ("claude", "codex", "gemini", "opencode"):
    for mode in MODES:
        CASES[f"beside-{name}-{mode}"] = (dry(), in_mode(mode, beside(name)))
for name in ("claude", "codex", "aider"):
    for mode in MODES:
        config = {"tokens": {"t-2": "org-2"}, "steps": 4 if name == "aider" else 6}
        CASES[f"revoked-{name}-{mode}"] = (config, in_mode(mode, revoked(name)))
for name, (provider, text) in SCRIPTS.items():
    CASES[name] = (timed(), script("llm/bin/python", text, provider))

MATRIX = {}
failed = 0
for name, (config, check) in CASES.items():
    if WANTED and not any(name.startswith(wanted) for wanted in WANTED):
        continue
    program = name.split("-")[1 if name.startswith(("beside", "revoked")) else 0]
    if program in CLIENTS and not (FOLDER / "bin" / program).exists():
        print(f"skipped  {name}: {program} is not installed", flush=True)
        continue
    case = Case(config)
    began = time.time()
    try:
        check(case)
        steps = case.steps()
        wanted = case.steps_wanted
        repeated = len(steps) - len(wanted)
        assert list(dict.fromkeys(steps)) == list(dict.fromkeys(wanted)), f"steps {steps}"
        # A restart near a limit may strike in the middle of a tool call, which the client then makes again.
        assert repeated == 0 or repeated == 1 and "near-limit" in name, f"steps {steps}"
        assert not case.left_behind(), f"left behind: {case.left_behind()}"
        result = "ok"
        print(f"passed   {name} ({time.time() - began:.0f} s)", flush=True)
    except Exception as error:
        # What ddollar says at the start that this client cannot do after a restart.
        told = re.search(r"(?:%s): (its [^\n]*restart[^\n]*)" % "|".join(CLIENTS), case.said)
        if told and "-plain-" in name:
            result = f"told: {told.group(1)}"
            print(f"told     {name}: {error} ({told.group(1)})", flush=True)
            MATRIX[name] = result
            continue
        failed += 1
        result = f"{error}"[:60]
        print(f"FAILED   {name}: {error!r}\n{case.said[-2500:]}\n--- screen\n{case.screen[-1500:]}", flush=True)
        for request in case.requests()[-12:]:
            print("        ", request)
    finally:
        case.close()
    MATRIX[name] = result

cells = [f"{mode}-{place}" for mode in MODES for place in ("headless", "tmux")]
if any(f"{name}-{each}" in MATRIX for name in CLIENTS for each in cells):
    print("| client | " + " | ".join(each.replace("-", ", ") for each in cells) + " |")
    for name in CLIENTS:
        print(f"| {name} | " + " | ".join(MATRIX.get(f"{name}-{each}", "-") for each in cells) + " |")
sys.exit(failed > 0)
