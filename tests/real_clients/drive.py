"""Runs real clients under `ddollar supervise` against upstream.py, and says what came of it.

Usage: drive.py DDOLLAR FOLDER [NAME...]     FOLDER holds what `run` has installed; a NAME may be a prefix

Each case is a task of six shell steps, in the middle of which one model of the first token's organization
is refused, with `retry-after: 600`. It passes when the client has done each step once and in order, has
ended with 0 and has left nothing behind. Nobody presses a key, but for aider's first prompt. The cases of
the matrix are named CLIENT-MODE-KIND. MODE is `default`, or `plain` with --no-proxy. KIND is
  headless   without a terminal
  tmux       in a terminal: a client that stays at its prompt is ended when its last step has been answered
  beside     another client begins in the same folder while this one works, with a task of its own
  two        two supervised clients work in one folder, each on a task of its own, and both meet a limit
  revoked    the first token is unknown to the provider
A client that cannot go on after a restart makes ddollar say so at the start: then `told` is printed, with
what was said. Programs that ddollar does not know run by default alone, and must not be started again.
"""

import json
import os
import pathlib
import re
import shlex
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
SECOND_PROMPT = "do six more steps"
MODES = {"default": [], "plain": ["--no-proxy"]}
KINDS = ("headless", "tmux", "beside", "two", "revoked")


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
        self.mode = "default"
        self.options = MODES["default"]
        self.extra = {}
        self.keys = "t-1,t-2"
        self.typed = None
        self.steps_wanted = STEPS
        self.last = len(STEPS)  # How many steps the last request tells of.
        self.tmux = ["tmux", "-L", self.desk.name, "-f", "/dev/null"]

    def write(self, name, text):
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    def environment(self, provider):
        common = {"PATH": f"{FOLDER}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home),
                  "TERM": "xterm-256color", "LANG": "C.UTF-8", "DISABLE_AUTOUPDATER": "1",
                  "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                  "CODEX_HOME": str(self.home / ".codex"), "LLM_USER_PATH": str(self.home), "SHELL": "/bin/bash",
                  "XDG_STATE_HOME": str(self.home / "state"), **self.extra}
        return {**common, **{
            "anthropic": {"ANTHROPIC_API_KEYS": self.keys, "ANTHROPIC_BASE_URL": self.url},
            "openai": {"OPENAI_API_KEYS": self.keys, "OPENAI_BASE_URL": f"{self.url}/v1"},
            "gemini": {"GEMINI_API_KEYS": self.keys, "GOOGLE_GEMINI_BASE_URL": self.url},
        }[provider]}

    def start(self, command, provider):
        words = [DDOLLAR, "supervise", "--interval", "2s", *self.options, "--", *command]
        out = open(self.desk / "out", "ab")
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                cwd=self.project, env=self.environment(provider), start_new_session=True)

    def finish(self, processes, patience=240):
        """Waits until all of them have ended with 0."""
        end = time.time() + patience
        try:
            statuses = [process.wait(max(0, end - time.time())) for process in processes]
        except subprocess.TimeoutExpired:
            raise AssertionError("it does not end") from None
        finally:
            for process in processes:
                self.end(process)
            self.screen = self.said = (self.desk / "out").read_text(errors="replace")
        assert not any(statuses), f"status {statuses}"

    def headless(self, command, provider="anthropic"):
        """Runs the command without a terminal."""
        self.finish([self.start(command, provider)])

    def end(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def pane(self):
        return subprocess.run([*self.tmux, "capture-pane", "-p", "-t", "it", "-S", "-200"],
                              capture_output=True, text=True).stdout

    def interactive(self, command, provider="anthropic", patience=180):
        """Runs the command in tmux until it ends with 0, or the last step was answered and it is ended."""
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
                if self.typed and re.search(r"^> *$", self.pane(), re.M):
                    subprocess.run([*self.tmux, "send-keys", "-t", "it", self.typed, "Enter"])
                    self.typed = None
                time.sleep(0.3)
            self.screen = self.pane()
            if status.exists():
                assert status.read_text() == "status 0\n", status.read_text()
                return
            assert self.is_answered(), "it stands still"
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
            self.screen = self.pane() or self.screen
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
        if self.steps()[-1:] != self.steps_wanted[-1:]:
            return False  # Threads beside the task may have come to its end before it.
        return any(request.get("step") == self.last and request["status"] == 200 for request in self.requests())

    def steps(self, name="steps.log"):
        path = self.project / name
        return path.read_text().split() if path.exists() else []

    def wait_for_steps(self, count):
        end = time.time() + 60
        while len(self.steps()) < count and time.time() < end:
            time.sleep(0.1)

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
    """Its task is four edits, since it stops by itself after three reflections; the last one is not told. A prompt
    for its chat has to be typed."""
    case.steps_wanted = STEPS[:4]
    case.last = 3
    case.typed = PROMPT
    (case.project / "steps.log").touch()
    test = "test $(wc -l <steps.log) -ge 4 || { echo more; exit 1; }"
    common = ["aider", "--model", "openai/gpt-6-luna", "--edit-format", "whole", "--no-git", "--yes-always",
              "--no-check-update", "--no-show-model-warnings", "--no-show-release-notes", "--no-analytics",
              "--no-suggest-shell-commands", "--map-tokens", "0", "--auto-test", "--test-cmd", test]
    return ([*common, "--message", PROMPT, "steps.log"], [*common, "--no-pretty", "--no-fancy-input", "steps.log"])


def llm(case):
    (case.project / "loop.sh").write_text(LOOP.replace("{command}", "llm -m gpt-4o-mini 'do it' >/dev/null"))
    return (["sh", "loop.sh"], ["sh", "loop.sh"])


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


def cell(client, mode, kind):
    """The configuration of the provider, and what is run."""
    provider, model, prepare = CLIENTS[client]
    at = {"llm": {"after_requests": 3}, "aider": {"after": 2}}.get(client, {})
    config = {**dry(model=model, **at), "steps": {"llm": 0, "aider": 4}.get(client, 6)}
    if kind == "revoked":
        config = {"tokens": {"t-2": "org-2"}, "steps": config["steps"]}
    if kind == "two":
        # Each run starts with a token that the other one does not use.
        config["tokens"] = {**TWO, "t-3": "org-3"}
        config["dry"]["org-2"] = config["dry"]["org-1"]

    def run(case):
        case.mode = mode
        case.options = MODES[mode]
        line, interactive = prepare(case)
        if kind == "tmux":
            case.interactive(interactive, provider)
        elif kind == "beside":
            process = case.start(line, provider)
            beside(case, client, provider, [word.replace(PROMPT, "another task") for word in line])
            case.finish([process])
        elif kind == "two":
            case.keys = "t-1,t-2,t-3"
            first = case.start(line, provider)
            case.wait_for_steps(1)  # What a client sets up when it is started for the first time is done once.
            case.finish([first, case.start([word.replace(PROMPT, SECOND_PROMPT) for word in line], provider)])
            assert case.steps("more.log") == STEPS, f"steps of the second {case.steps('more.log')}"
        else:
            case.headless(line, provider)
        check_tokens(case, {"revoked": {0, 1}, "two": {1, 2, 3}}.get(kind, {1, 2}))
        # The first check of a revoked token comes before the first request of a command that nobody knows.
        if mode == "default" and (client, kind) != ("llm", "revoked"):
            assert case.said.count("Launching") == (2 if kind == "two" else 1), "started again"
    return config, run


def check_tokens(case, wanted):
    """The client has come past the limit, or has not even begun with a token that is refused."""
    used = {request["token"] for request in case.requests()
            if not request.get("probe") and not request.get("other") and "token" in request}
    assert used == wanted or used == wanted - {0}, f"tokens {used}"


def beside(case, client, provider, line):
    """Another client begins in the folder once the case's own has come to its second step."""
    case.wait_for_steps(2)
    environment = {**case.environment(provider), "ANTHROPIC_API_KEY": "t-2", "OPENAI_API_KEY": "t-2",
                   "CODEX_API_KEY": "t-2", "GEMINI_API_KEY": "t-2", "COPILOT_PROVIDER_API_KEY": "t-2"}
    if client == "codex":
        line[1:1] = ["-c", f'openai_base_url="{case.url}/v1"']
    if client == "opencode":
        environment["ANTHROPIC_BASE_URL"] = f"{case.url}/v1"
    subprocess.run(line, env=environment, cwd=case.project, stdin=subprocess.DEVNULL, timeout=90,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert any(request.get("other") for request in case.requests()), "the other has not asked"


# Programs that ddollar does not know. Each is any command, which finds the proxy by its provider's variable.

def generic(provider, prepare):
    def run(case):
        case.headless(prepare(case), provider)
        check_tokens(case, {1, 2})
        assert case.said.count("Launching") == 1, "started again"
    return run


def script(*words):
    return lambda _: [str(FOLDER / words[0]), *words[1:]]


def timed():
    """Dry after so many requests, for programs whose requests tell no step."""
    return {**dry(after_requests=3), "steps": 0}


def openhands(case):
    case.extra.update({"LLM_MODEL": "openai/gpt-6-luna", "OPENHANDS_SUPPRESS_BANNER": "1"})
    own = "LLM_API_KEY=$OPENAI_API_KEY LLM_BASE_URL=$OPENAI_BASE_URL"
    return ["sh", "-c", f"{own} openhands --headless --override-with-envs -t '{PROMPT}'"]


def mini(case):
    case.extra.update({"MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"})
    return ["mini", "--yolo", "--exit-immediately", "-m", "openai/gpt-6-luna", "-t", PROMPT]


PYTHON = "llm/bin/python"
EACH = "for n in range(1, 7):\n    {ask}\n    open('steps.log', 'a').write('step-%d\\n' % n)\n"
AGENT_PY = f"""import anyio
from claude_agent_sdk import ClaudeAgentOptions, query
async def main():
    async for message in query(prompt='{PROMPT}', options=ClaudeAgentOptions(allowed_tools=['Bash'])):
        print(message)
anyio.run(main)
"""
AGENT_TS = f"""import {{ query }} from '{FOLDER}/bin/claude-agent-sdk'
for await (const message of query({{ prompt: '{PROMPT}', options: {{ allowedTools: ['Bash'] }} }})) console.log(message)
"""
# The program that must be there, the provider, what it does, and the command.
GENERIC = {
    "sdk-anthropic": ("llm", "anthropic", timed(), script(PYTHON, "-c", (
        "import anthropic\nc = anthropic.Anthropic()\n" + EACH.format(ask="c.messages.create("
        "model='claude-opus-5-5', max_tokens=9, messages=[{'role': 'user', 'content': 'x'}])")))),
    "sdk-openai": ("llm", "openai", timed(), script(PYTHON, "-c", (
        "import openai\nc = openai.OpenAI()\n" + EACH.format(ask="c.chat.completions.create("
        "model='gpt-6-luna', messages=[{'role': 'user', 'content': 'x'}])")))),
    "sdk-google-genai": ("llm", "gemini", timed(), script(PYTHON, "-c", (
        "from google import genai\nc = genai.Client()\n" + EACH.format(
            ask="c.models.generate_content(model='gemini-3-flash', contents='x')")))),
    "claude-agent-sdk-py": ("llm", "anthropic", dry(model="claude-opus"), script(PYTHON, "-c", AGENT_PY)),
    "claude-agent-sdk-ts": ("claude-agent-sdk", "anthropic", dry(model="claude-opus"),
                            lambda _: ["node", "--input-type=module", "-e", AGENT_TS]),
    "openhands": ("openhands", "openai", dry(model="gpt-6-luna"), openhands),
    "mini": ("mini", "openai", dry(model="gpt-6-luna"), mini),
}


# Cases beside the matrix.

def headless(case):
    case.headless(claude(case)[0])
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
    """Nothing is kept of such a session."""
    case.headless([*claude(case)[0], "--no-session-persistence"])


CASES = {}
for name in CLIENTS:
    for mode in MODES:
        for kind in KINDS:
            # The chat history of aider's folder is everybody's, and a loop has no session.
            if name not in ("aider", "llm") or kind not in ("beside", "two"):
                CASES[f"{name}-{mode}-{kind}"] = (name, *cell(name, mode, kind))
for name, (program, provider, config, prepare) in GENERIC.items():
    CASES[f"{name}-default-headless"] = (program, config, generic(provider, prepare))
CASES |= {f"claude-{name}": ("claude", config, check) for name, (config, check) in {
    "p-final-429": (dry(), plain(headless)),
    "p-own-retries": (dry(retry_after=3), plain(headless)),
    "p-near-limit": (near(), plain(headless)),
    "p-one-organization": (dry(ONE, retry_after=70, reset_in=12), plain(headless)),
    "interactive-final-429": (dry(), plain(interactive)),
    "interactive-own-retries": (dry(retry_after=3), plain(interactive)),
    "interactive-near-limit": (near(), plain(interactive)),
    "interactive-one-organization": (dry(ONE, retry_after=70, reset_in=12), plain(interactive)),
    "p-without-hooks-near-limit": (near(), plain(without_hooks(headless))),
    "p-without-hooks-final-429": (dry(), plain(without_hooks(headless))),
    "interactive-without-hooks-near-limit": (near(), plain(without_hooks(interactive))),
    "p-proxy-one-organization": (dry(ONE, retry_after=12, reset_in=12), proxied(headless)),
    "interactive-proxy": (dry(), proxied(interactive)),
    "no-session-persistence": (dry(), plain(not_persistent)),
    "proxy-no-session-persistence": (dry(), proxied(not_persistent)),
}.items()}


def check_steps(case, name):
    steps = case.steps()
    wanted = case.steps_wanted
    # A restart near a limit may strike in the middle of a tool call, which the client then makes again.
    may_repeat = "near-limit" in name and len(steps) == len(wanted) + 1
    assert (list(dict.fromkeys(steps)) if may_repeat else steps) == wanted, f"steps {steps}"


# What can go wrong without the proxy, and how ddollar says at the start that it can.
EXPLAINED = {"steps": r"\w+: (its? .* anew)", "status": r"\w+: (checks ask for .*|OpenAI refuses .*)",
             "it stands still": r"\w+: (its .* waits for you .*|a limit is seen only .*|OpenAI refuses .*)"}


def told(case, error):
    """The sentence at the start that explains this error, if there is one."""
    start, launched, _ = case.said.partition("Launching")
    patterns = [pattern for begin, pattern in EXPLAINED.items() if str(error).startswith(begin)]
    found = [match.group(1) for pattern in patterns if (match := re.search(pattern, start))]
    return found[0] if found and launched and case.mode == "plain" else None


RESULTS = {}
for name, (program, config, check) in CASES.items():
    if WANTED and not any(name.startswith(wanted) for wanted in WANTED):
        continue
    if not (FOLDER / "bin" / program).exists():
        print(f"skipped  {name}: {program} is not installed", flush=True)
        continue
    case = Case(config)
    began = time.time()
    try:
        check(case)
        check_steps(case, name)
        assert not case.left_behind(), f"left behind: {case.left_behind()}"
        RESULTS[name] = "ok"
        print(f"passed   {name} ({time.time() - began:.0f} s)", flush=True)
    except Exception as error:
        if sentence := told(case, error):
            RESULTS[name] = f"told: {sentence}"
            print(f"told     {name}: {error} ({sentence})", flush=True)
        else:
            RESULTS[name] = f"FAILED: {error}"[:60]
            print(f"FAILED   {name}: {error!r}\n{case.said[-2500:]}\n--- screen\n{case.screen[-1500:]}", flush=True)
            for request in case.requests()[-12:]:
                print("        ", request)
    finally:
        case.close()

for mode in MODES:
    rows = [[RESULTS.get(f"{name}-{mode}-{kind}", "-") for kind in KINDS] for name in (*CLIENTS, *GENERIC)]
    if any(each != "-" for row in rows for each in row):
        print(f"\n| {mode} | {' | '.join(KINDS)} |\n|{' --- |' * (len(KINDS) + 1)}")
        for name, row in zip((*CLIENTS, *GENERIC), rows):
            if row != ["-"] * len(KINDS):
                print(f"| {name} | {' | '.join(row)} |")
sys.exit(any(result.startswith("FAILED") for result in RESULTS.values()))
