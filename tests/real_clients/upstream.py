"""A provider for real clients: it scripts a task of shell steps, and runs dry in the middle.

Usage: upstream.py CONFIG LOG     the first line on stdout is its address

It speaks Anthropic messages, OpenAI chat completions and responses, and Gemini generateContent, under the
paths that the vendors have; any other path is a 404. CONFIG is JSON:
  tokens   {"TOKEN": "ORGANIZATION"}; any other token is refused as the vendor refuses it
  steps    how many tool calls the task has (6)
  dry      {"ORGANIZATION": {"after": 3, "retry_after": 3, "reset_in": 8, "model": "NAME"}}: refuses with 429
           once a conversation has come to that step, or after so many requests that are no probes
           (`after_requests`), for `reset_in` seconds; with `model` only requests for models that begin so
  near     {"ORGANIZATION": 3}: says from that step on that 97 % are used
  bucket   {"ORGANIZATION": N}: characters of request bodies a minute; refuses when used + requested > N
  slow     seconds that each answer takes
  dump     whether LOG.bodies gets each request's body
The step is read from the conversation itself, so a client that loses part of it repeats a step. Steps are
written to steps.log, those of a conversation about "six more steps" to more.log. Like the vendor, it
refuses a Gemini conversation whose function responses do not match the calls before them, and reasoning that
another organization of OpenAI's has encrypted.
LOG gets one JSON line for each request: who asked for what, and the status.
"""

import datetime
import email.utils
import http.server
import json
import re
import sys
import threading
import time

with open(sys.argv[1]) as file:
    CONFIG = json.load(file)
STEPS = CONFIG.get("steps", 6)
LOCK = threading.Lock()
DRY_UNTIL = {}
NEAR = set()
WAS_DRY = set()
SERVED = {}
USED = {}
# What mini-swe-agent tells its model to print at the end.
SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
# The names under which clients offer a shell to their model.
SHELLS = ("Bash", "bash", "shell", "run_shell_command", "exec_command", "terminal", "execute_bash")
GEMINI = re.compile(r"^/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|countTokens)$")


def say(**facts):
    with LOCK, open(sys.argv[2], "a") as log:
        log.write(json.dumps({"at": round(time.time(), 3), **facts}) + "\n")


def is_dry(organization, model, step, probe, size):
    """Whether the organization refuses now; its time begins when a conversation has come that far."""
    plan = CONFIG.get("dry", {}).get(organization)
    limit = CONFIG.get("bucket", {}).get(organization)
    with LOCK:
        if CONFIG.get("near", {}).get(organization, 99) <= step:
            NEAR.add(organization)
        if limit:
            minute = int(time.time() / 60)
            used = USED.get((organization, minute), 0)
            if used + size > limit:
                return True
            USED[organization, minute] = used + size
        if not probe:
            SERVED[organization] = SERVED.get(organization, 0) + 1
        begins = plan and (step >= plan.get("after", 99)
                           or SERVED.get(organization, 0) > plan.get("after_requests", 1e9))
        if begins and organization not in WAS_DRY:
            WAS_DRY.add(organization)
            DRY_UNTIL[organization] = time.time() + plan["reset_in"]
        concerned = plan and str(model).startswith(plan.get("model", ""))
        return bool(concerned) and time.time() < DRY_UNTIL.get(organization, 0)


def ids(names, prefix):
    return len({name.split("_")[1] for name in names if name and name.startswith(prefix)})


def anthropic_step(body):
    blocks = [block for message in body.get("messages", []) if isinstance(message.get("content"), list)
              for block in message["content"] if isinstance(block, dict)]
    return ids({block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"}, "toolu_")


def responses_step(body):
    items = body.get("input", []) if isinstance(body.get("input"), list) else []
    outputs = ("function_call_output", "custom_tool_call_output")
    return ids({item.get("call_id") for item in items if item.get("type") in outputs}, "call_")


def chat_step(body):
    messages = body.get("messages", [])
    called = ids({message.get("tool_call_id") for message in messages if message.get("role") == "tool"}, "call_")
    # A client that offers no tools edits files; what it has done is in the text.
    text = json.dumps(messages)
    edited = [int(number) for number in re.findall(r"edit-(\d+)", text)]
    return max([called, *edited])


def gemini_step(body):
    parts = [part for content in body.get("contents", []) for part in content.get("parts", [])]
    return len({(part["functionResponse"].get("id") or at) for at, part in enumerate(parts)
                if "functionResponse" in part and part["functionResponse"].get("name") in SHELLS})


def gemini_mismatch(body):
    """The vendor's rule: a turn answers exactly the function calls of the turn before."""
    calls = 0
    for content in body.get("contents", []):
        parts = content.get("parts", [])
        answers = sum("functionResponse" in part for part in parts)
        if (answers or calls) and answers != calls:
            return True
        calls = sum("functionCall" in part for part in parts)
    return False


def command_of(step, log):
    return f"echo step-{step} >> {log} && sleep 0.3"


def shell_of(tools, name):
    """The shell among the tools, by this way to a tool's name, and its arguments for the next step."""
    found = [name(tool) for tool in tools if name(tool) in SHELLS]
    return found[0] if found else None


def arguments(shell, command):
    if shell == "exec_command":
        return {"cmd": command}
    return {"command": command, **({"security_risk": "LOW"} if shell == "terminal" else {"description": "Next step"})}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def token(self):
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer

    def answer(self, status, body, headers=(), kind="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        time.sleep(CONFIG.get("slow", 0))
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, dialect, code, message, headers=(), details=()):
        if dialect == "gemini":
            body = {"error": {"code": status, "message": message, "status": code, "details": list(details)}}
        elif dialect == "anthropic":
            body = {"type": "error", "error": {"type": code, "message": message}}
        else:
            body = {"error": {"message": message, "type": code, "param": None, "code": code}}
        self.answer(status, body, headers)

    def refuse_token(self, dialect):
        if dialect == "gemini":
            reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            return self.refuse(400, dialect, "INVALID_ARGUMENT", "API key not valid.", details=[reason])
        code = "authentication_error" if dialect == "anthropic" else "invalid_api_key"
        self.refuse(401, dialect, code, "invalid x-api-key")

    def do_GET(self):
        path = self.path.split("?")[0]
        probe = self.headers.get("user-agent", "").startswith("ddollar/")
        is_list = path in ("/v1/models", "/v1beta/models")
        known = self.token() in CONFIG["tokens"]
        status = 404 if not is_list else 200 if known else 401
        say(method="GET", path=path, probe=probe, status=status, upgrade=self.headers.get("upgrade"))
        if not is_list:
            return self.refuse(404, "anthropic", "not_found_error", "Not found")
        if not known:
            return self.refuse_token("gemini" if "beta" in path else "anthropic")
        self.answer(200, {"data": [], "models": [], "object": "list"})

    do_HEAD = do_GET

    def do_POST(self):
        length = self.headers.get("content-length")
        data = self.rfile.read(int(length)) if length else b""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        try:
            body = json.loads(data)
        except ValueError:
            body = {}
        if CONFIG.get("dump"):
            with LOCK, open(sys.argv[2] + ".bodies", "ab") as bodies:
                bodies.write(data + b"\n")
        path = self.path.split("?")[0]
        gemini = GEMINI.match(path)
        dialect, step = {
            "/v1/messages": ("anthropic", anthropic_step), "/v1/messages/count_tokens": ("anthropic", anthropic_step),
            "/v1/chat/completions": ("chat", chat_step), "/v1/responses": ("responses", responses_step),
        }.get(path, ("gemini", gemini_step) if gemini else (None, lambda _: 0))
        model = gemini.group(1) if gemini else body.get("model")
        step = step(body)
        self.shell_command = command_of(step + 1, "more.log" if b"six more steps" in data else "steps.log")
        tokens = CONFIG["tokens"]
        token = self.token()
        organization = tokens.get(token)
        number = list(tokens).index(token) + 1 if organization else 0
        probe = self.headers.get("user-agent", "").startswith("ddollar/")
        both = bool(self.headers.get("x-api-key")) and bool(self.headers.get("authorization"))

        def note(status):
            text = data.decode(errors="replace")
            say(path=path, token=number, step=step, status=status, probe=probe, both=both, model=model,
                foreign=None if organization else str(token)[-6:], prompt=re.findall(r"do six steps\w*", text)[:1],
                other="another task" in text)

        if dialect is None:
            note(404)
            return self.refuse(404, "anthropic", "not_found_error", "Not found")
        if organization is None:
            note(401)
            return self.refuse_token(dialect)
        if path.endswith(("count_tokens", "countTokens")):
            note(200)
            return self.answer(200, {"input_tokens": 20, "totalTokens": 20})
        if dialect == "gemini" and gemini_mismatch(body):
            note(400)
            return self.refuse(400, dialect, "INVALID_ARGUMENT", "Please ensure that the number of function response "
                               "parts is equal to the number of function call parts of the function call turn.")
        if dialect == "responses" and any(item.get("encrypted_content", organization) != organization
                                          for item in body.get("input", []) if isinstance(item, dict)):
            note(400)
            return self.refuse(400, dialect, "invalid_encrypted_content", "The encrypted content could not be verified. "
                               "Reason: Encrypted content organization_id did not match the target organization.")
        other = b"another task" in data
        dry = is_dry(organization, model, 0 if probe or other else step, probe or other, len(data))
        headers = self.limits(organization, dry, dialect)
        if dry:
            note(429)
            plan = CONFIG.get("dry", {}).get(organization, {})
            retry_after = plan.get("retry_after")
            if dialect == "gemini":
                details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
                    {"quotaId": plan.get("quota", "GenerateRequestsPerMinutePerProjectPerModel")}]}]
                if retry_after:
                    details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after}s"})
                return self.refuse(429, dialect, "RESOURCE_EXHAUSTED", "You exceeded your current quota", (), details)
            if retry_after is not None:
                headers.append(("retry-after", str(retry_after)))
            code = "rate_limit_error" if dialect == "anthropic" else "rate_limit_exceeded"
            return self.refuse(429, dialect, code, "This request would exceed your organization's rate limit", headers)
        note(200)
        steps = 0 if other else STEPS
        if dialect == "gemini":
            return self.as_gemini(body, model, step, steps, "stream" in gemini.group(2))
        return getattr(self, f"as_{dialect}")(body, step, steps, headers)

    def limits(self, organization, dry, dialect):
        until = DRY_UNTIL.get(organization, 0) if dry else time.time() + 60
        until = max(until, time.time() + 1)
        remaining = 0 if dry else 30 if organization in NEAR else 900
        if dialect == "gemini":
            return []
        if dialect == "anthropic":
            at = datetime.datetime.fromtimestamp(until, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            prefix = "anthropic-ratelimit-requests-"
            return [(prefix + "limit", "1000"), (prefix + "remaining", str(remaining)), (prefix + "reset", at),
                    ("anthropic-organization-id", f"id-of-{organization}"), ("request-id", "req_real"),
                    ("x-date", email.utils.formatdate(usegmt=True))]
        left = max(0, round(until - time.time(), 3))
        return [("x-ratelimit-limit-requests", "1000"), ("x-ratelimit-remaining-requests", str(remaining)),
                ("x-ratelimit-reset-requests", f"{left}s"), ("openai-organization", organization),
                ("openai-project", "proj_1")]

    def events(self, events, headers):
        """A stream of named events, as Anthropic and OpenAI's responses send them."""
        text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self.answer(200, text, headers, "text/event-stream")

    def as_anthropic(self, body, step, steps, headers):
        shell = shell_of(body.get("tools", []), lambda tool: tool.get("name"))
        if shell and step < steps:
            block = {"type": "tool_use", "id": f"toolu_{step + 1}_{time.time_ns()}", "name": shell,
                     "input": arguments(shell, self.shell_command)}
            reason = "tool_use"
        else:
            block = {"type": "text", "text": "TASK DONE" if shell else "Six steps"}
            reason = "end_turn"
        usage = {"input_tokens": 20, "output_tokens": 5}
        message = {"id": f"msg_{time.time_ns()}", "type": "message", "role": "assistant",
                   "model": body.get("model"), "content": [], "stop_reason": None,
                   "stop_sequence": None, "usage": usage}
        if not body.get("stream"):
            content = [block] if body.get("max_tokens") else []
            return self.answer(200, {**message, "content": content, "stop_reason": reason}, headers)
        if reason == "tool_use":
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        else:
            start = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        self.events([
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": start},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ], headers)

    def as_responses(self, body, step, steps, headers):
        call = {"id": f"fc_{time.time_ns()}", "status": "completed", "call_id": f"call_{step + 1}_{time.time_ns()}"}
        shell = shell_of(body.get("tools", []), lambda tool: tool.get("name"))
        items = body.get("input") if isinstance(body.get("input"), list) else []
        # Codex offers its model one tool, which runs JavaScript that calls the others.
        if any(item.get("type") == "additional_tools" for item in items) and step < steps:
            script = f"await tools.exec_command({json.dumps({'cmd': self.shell_command})})"
            item = {**call, "type": "custom_tool_call", "name": "exec", "input": script}
        elif shell and step < steps:
            item = {**call, "type": "function_call", "name": shell,
                    "arguments": json.dumps(arguments(shell, self.shell_command))}
        else:
            item = {"type": "message", "id": f"msg_{time.time_ns()}", "status": "completed", "role": "assistant",
                    "content": [{"type": "output_text", "text": "TASK DONE", "annotations": []}]}
        # Who stores nothing here sends the reasoning back.
        encrypted = "reasoning.encrypted_content" in (body.get("include") or [])
        output = [{"type": "reasoning", "id": f"rs_{time.time_ns()}", "summary": [],
                   "encrypted_content": CONFIG["tokens"].get(self.token())}] * encrypted + [item]
        response = {"id": f"resp_{time.time_ns()}", "object": "response", "status": "completed",
                    "created_at": int(time.time()), "model": body.get("model"), "output": output,
                    "usage": {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25,
                              "input_tokens_details": {"cached_tokens": 0},
                              "output_tokens_details": {"reasoning_tokens": 0}}}
        if not body.get("stream"):
            return self.answer(200, response, headers)
        text = []
        if item["type"] == "message":
            part = {"item_id": item["id"], "output_index": len(output) - 1, "content_index": 0}
            text = [{"type": "response.content_part.added", **part,
                     "part": {"type": "output_text", "text": "", "annotations": []}},
                    {"type": "response.output_text.delta", **part, "delta": "TASK DONE"},
                    {"type": "response.output_text.done", **part, "text": "TASK DONE"}]
        begun = {**item, "status": "in_progress"}
        begun.update({"arguments": ""} if item["type"] == "function_call" else {})
        self.events([
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
            *[{"type": f"response.output_item.{what}", "output_index": 0, "item": thought}
              for thought in output[:-1] for what in ("added", "done")],
            {"type": "response.output_item.added", "output_index": len(output) - 1, "item": begun},
            *text,
            {"type": "response.output_item.done", "output_index": len(output) - 1, "item": item},
            {"type": "response.completed", "response": response},
        ], headers)

    def as_chat(self, body, step, steps, headers):
        shell = shell_of(body.get("tools") or [], lambda tool: tool.get("function", {}).get("name"))
        text = json.dumps(body.get("messages", []))
        edits = "steps.log" in text and not body.get("tools")
        if shell and step == steps and SUBMIT in text:
            self.shell_command = f"echo {SUBMIT}"
            steps += 1
        finish = "stop"
        message = {"role": "assistant", "content": "TASK DONE"}
        if shell and step < steps:
            call = {"id": f"call_{step + 1}_{time.time_ns()}", "type": "function",
                    "function": {"name": shell, "arguments": json.dumps(arguments(shell, self.shell_command))}}
            message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
        elif edits and step < steps:
            # In aider's whole-file format.
            lines = "\n".join(f"step-{number}" for number in range(1, step + 2))
            message["content"] = f"This is edit-{step + 1}.\n\nsteps.log\n```\n{lines}\n```\n"
        base = {"id": f"chatcmpl-{time.time_ns()}", "created": int(time.time()), "model": body.get("model")}
        usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return self.answer(200, {**base, "object": "chat.completion", "choices": [choice], "usage": usage},
                               headers)
        if "tool_calls" in message:
            message["tool_calls"] = [{"index": 0, **call} for call in message["tool_calls"]]
        chunks = [{**base, "object": "chat.completion.chunk",
                   "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
                  for delta, end in ((message, None), ({}, finish))]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self.answer(200, text, headers, "text/event-stream")

    def as_gemini(self, body, model, step, steps, streams):
        declared = [each for tool in body.get("tools", []) for each in tool.get("functionDeclarations", [])]
        shell = shell_of(declared, lambda each: each.get("name"))
        config = body.get("generationConfig", {})
        if shell and step < steps:
            part = {"functionCall": {"name": shell, "args": arguments(shell, self.shell_command)}}
        elif config.get("responseMimeType") == "application/json":
            # The client asks which model to use, and whether the model wants to go on.
            part = {"text": json.dumps({"reasoning": "none", "model_choice": "flash", "complexity_reasoning": "none",
                                        "complexity_score": 1, "next_speaker": "user"})}
        else:
            part = {"text": "TASK DONE" if shell else "Six steps"}
        reply = {"candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [part]}}],
                 "modelVersion": model,
                 "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 5, "totalTokenCount": 25}}
        if not streams:
            return self.answer(200, reply)
        self.answer(200, f"data: {json.dumps(reply)}\r\n\r\n", (), "text/event-stream")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # A client that is ended in the middle of a request.


server = Server(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
