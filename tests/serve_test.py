#!/usr/bin/env python3
"""`retort serve` over real sockets on loopback: every endpoint, streams, refusals, disconnects, slots, the end.

usage: serve_test.py RETORT TINY_MODEL        no packages needed; a few requests go through curl where there is one
"""
import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

RETORT, TINY_MODEL = sys.argv[1:3]
TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
failures = 0


def check(condition, *what):
    global failures
    if not condition:
        failures += 1
        frame = sys._getframe(1)
        print(f"FAILED: line {frame.f_lineno} ({frame.f_code.co_name}):", *what, flush=True)


class Server:
    def __init__(self, model, *flags):
        self.process = subprocess.Popen([RETORT, "serve", model, "--port", "0", "--threads", "1", *flags], stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.search(r"http://127.0.0.1:(\d+)", line)
        assert found, f"the server said: {line}{self.process.stderr.read() if self.process.poll() is not None else ''}"
        self.port = int(found.group(1))
        self.rest = []
        self.reader = threading.Thread(target=lambda: self.rest.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers={}):
        """status, headers, body: parsed where it is JSON"""
        connection = self.connect()
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
        return answer.status, answer.headers, json.loads(text) if is_json and text else text.decode()

    def post(self, path, body, **more):
        return self.ask("POST", path, {**body, **more})

    def completion(self, **fields):
        status, _, answer = self.ask("POST", "/v1/completions", fields)
        assert status == 200, answer
        return answer

    def stream(self, path, body):
        """status, the events' data"""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 200:
            return answer.status, text
        check(answer.getheader("Content-Type").startswith("text/event-stream"), answer.headers)
        events = [part for part in text.split("\n\n") if part]
        check(all(e.startswith(("data: ", ":")) for e in events), events)
        return 200, [e[6:] for e in events if e.startswith("data: ")]

    def raw(self, data, timeout=10, shut=False):
        """What comes back for these bytes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            out = b""
            while True:
                piece = s.recv(65536)
                if not piece:
                    return out
                out += piece

    def metric(self, name):
        found = re.search(rf"^retort:{name} (\S+)$", self.ask("GET", "/metrics")[2], re.M)
        return float(found.group(1))

    def wait_idle(self):
        for _ in range(600):
            if self.metric("requests_processing") == 0 and self.metric("requests_deferred") == 0:
                return True
            time.sleep(0.05)
        return False

    def end(self, number=signal.SIGINT, timeout=30):
        self.process.send_signal(number)
        return self.process.wait(timeout)


def small_endpoints(server):
    status, _, answer = server.ask("GET", "/health")
    check((status, answer) == (200, {"status": "ok"}), answer)
    check(server.ask("GET", "/v1/health")[0] == 200)
    check(server.ask("GET", "/v1/models")[2]["data"][0]["id"] == "teacher")
    check(server.ask("GET", "/v1/models/teacher")[2]["id"] == "teacher" and server.ask("GET", "/v1/models/other")[0] == 404)
    check(server.ask("GET", "/props")[2]["total_slots"] == 4)
    tokens = server.post("/tokenize", {"prompt": "Hi é", "add_special_tokens": False})[2]["tokens"]
    check(tokens == list("Hi é".encode()), tokens)
    check(server.post("/tokenize", {"content": "Hi"}, with_pieces=True)[2]["tokens"][0] == {"id": 72, "piece": "H"})
    check(server.post("/detokenize", {"tokens": tokens})[2]["prompt"] == "Hi é")
    check(server.post("/detokenize", {"tokens": [9999]})[0] == 400)
    info = server.ask("GET", "/tokenizer_info")[2]
    check("eos_token" in info and info["chat_template"] == TEMPLATE, info)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
    check(server.post("/apply-template", {"messages": messages})[2]["prompt"] == "<system>s;<user>u;<assistant>")
    status, headers, text = server.ask("GET", "/metrics")
    check(status == 200 and headers["Content-Type"].startswith("text/plain"))
    for name in ("prompt_tokens_total", "prompt_tokens_seconds", "tokens_predicted_total", "predicted_tokens_seconds", "requests_processing",
                 "requests_deferred", "n_busy_slots_per_decode", "prefix_cache_hits_total", "prefix_cache_queries_total", "prefix_cache_bytes",
                 "spec_decode_num_drafts_total", "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total"):
        check(re.search(rf"^retort:{name} \S+$", text, re.M), name)
    status, headers, text = server.ask("HEAD", "/health")
    check(status == 200 and text == "", text)


def completions(server):
    a = server.completion(prompt="The river", max_tokens=9, seed=5, model="my-name")
    check(a["object"] == "text_completion" and a["model"] == "my-name" and a["id"].startswith("cmpl-"), a)
    check(a["usage"] == {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 0}}, a["usage"])
    choice = a["choices"][0]
    check(choice["finish_reason"] == "length" and choice["index"] == 0 and choice["logprobs"] is None, choice)
    check(a["timings"]["predicted_n"] == 9 and a["timings"]["prompt_n"] == 9, a["timings"])
    b = server.completion(prompt=list(b"The river"), max_tokens=9, seed=5)
    check(b["choices"][0]["text"] == choice["text"], "text and its ids are one prompt")
    c = server.completion(prompt="The river", max_tokens=9, seed=6)
    check(c["choices"][0]["text"] != choice["text"], "another seed")
    several = server.completion(prompt=["The river", list(b"A house")], max_tokens=6, n=2, seed=5)["choices"]
    check([s["index"] for s in several] == [0, 1, 2, 3])
    check(several[0]["text"] == server.completion(prompt="The river", max_tokens=6, seed=5)["choices"][0]["text"])
    check(several[1]["text"] == server.completion(prompt="The river", max_tokens=6, seed=6)["choices"][0]["text"], "choice i has the seed + i")
    check(several[2]["text"] == server.completion(prompt="A house", max_tokens=6, seed=5)["choices"][0]["text"])
    letters = {str(i): -100 for i in range(260) if not 97 <= i <= 102}
    free = server.completion(prompt="x", max_tokens=60, seed=1, logit_bias=letters)["choices"][0]["text"]
    check(re.fullmatch("[a-f]{60}", free), free)
    stop = free[30:33]
    stopped = server.completion(prompt="x", max_tokens=60, seed=1, logit_bias=letters, stop=["zzz", stop])["choices"][0]
    check(stopped["text"] == free[:free.find(stop)] and stopped["finish_reason"] == "stop", stopped)
    flat = server.completion(prompt="x", max_tokens=6, temperature=0, frequency_penalty=2, presence_penalty=2, logit_bias=letters)["choices"][0]["text"]
    check(len(set(flat)) >= 3, flat)
    check(server.completion(prompt="x", max_tokens=0, echo=True)["choices"][0]["text"] == "x")


def log_probabilities(server):
    """What lm-eval reads: P+1 entries, of which the first is null, the prompt's the next, one made token the last."""
    prompts = [list(b"The sky is"), list(b"A")]
    answer = server.completion(prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True)
    for prompt, choice in zip(prompts, answer["choices"]):
        block = choice["logprobs"]
        check(all(len(block[key]) == len(prompt) + 1 for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")), block)
        check(block["token_logprobs"][0] is None and block["top_logprobs"][0] is None)
        check(all(p <= 0 and list(t.values()) == [max(t.values())] and p <= max(t.values()) for p, t in zip(block["token_logprobs"][1:], block["top_logprobs"][1:])), block)
        check(block["token_logprobs"][-1] == max(block["top_logprobs"][-1].values()), "greedy: the same number")
        check(choice["text"].startswith(bytes(prompt).decode()), choice["text"])
    check(answer["usage"]["completion_tokens"] == 2)
    # A prompt's own probabilities do not depend on what is asked beside it, or on how much of it comes before.
    longer = server.completion(prompt=list(b"The sky is blue"), temperature=0, max_tokens=1, logprobs=1, echo=True)["choices"][0]["logprobs"]
    shorter = answer["choices"][0]["logprobs"]
    check(all(abs(a - b) < 2e-4 for a, b in zip(longer["token_logprobs"][1:10], shorter["token_logprobs"][1:10])))
    five = server.completion(prompt="x", max_tokens=3, logprobs=5)["choices"][0]["logprobs"]
    check(len(five["tokens"]) == 3 and all(1 <= len(t) <= 5 for t in five["top_logprobs"]), five)


def chat(server):
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "seed": 2, "logprobs": True, "top_logprobs": 2}
    status, _, answer = server.post("/v1/chat/completions", body)
    check(status == 200 and answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-"), answer)
    message = answer["choices"][0]["message"]
    check(message["role"] == "assistant" and isinstance(message["content"], str))
    content = answer["choices"][0]["logprobs"]["content"]
    check(len(content) == 8 and all(len(c["top_logprobs"]) == 2 and isinstance(c["bytes"], list) for c in content), content)
    plain = server.completion(prompt="<user>Hello;<assistant>", max_tokens=8, seed=2)
    check(plain["choices"][0]["text"] == message["content"], "the template's prompt")
    check(answer["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"])
    status, events = server.stream("/v1/chat/completions", {**body, "n": 2, "stream_options": {"include_usage": True}})
    check(status == 200 and events[-1] == "[DONE]", events)
    events = [json.loads(e) for e in events[:-1]]
    check(events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 16, events[-1])
    check(all(e["usage"] is None for e in events[:-1]))
    choices = [c for e in events for c in e["choices"]]
    for index in (0, 1):
        mine = [c for c in choices if c["index"] == index]
        check(mine[0]["delta"]["role"] == "assistant" and [c["finish_reason"] for c in mine if c["finish_reason"]] == ["length"], mine)
        text = "".join(c["delta"].get("content", "") for c in mine)
        if index == 0:
            check(text == message["content"], text)
        check(sum(len(c["logprobs"]["content"]) for c in mine) == 8)


def streams(server):
    body = {"prompt": "The river", "max_tokens": 20, "seed": 5, "echo": True, "logprobs": 0}
    whole = server.completion(**body)
    status, events = server.stream("/v1/completions", body)
    check(status == 200 and events[-1] == "[DONE]")
    events = [json.loads(e) for e in events[:-1]]
    check("".join(e["choices"][0]["text"] for e in events) == whole["choices"][0]["text"])
    check(sum((e["choices"][0]["logprobs"]["token_logprobs"] for e in events), []) == whole["choices"][0]["logprobs"]["token_logprobs"])
    check(sum((e["choices"][0]["logprobs"]["text_offset"] for e in events), []) == whole["choices"][0]["logprobs"]["text_offset"])
    check([e["choices"][0]["finish_reason"] for e in events][-1] == "length" and "timings" in events[-1])
    check(server.stream("/v1/completions", {"prompt": 5})[0] == 400, "an error comes before the stream")


def errors(server):
    for body, name in (({"prompt": "a", "temperature": "hot"}, "temperature"), ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"), ({}, "prompt"),
                       ({"prompt": "a", "response_format": {"type": "json_schema"}}, "response_format"), ({"prompt": [9999]}, "vocabulary"),
                       ({"prompt": "x" * 600}, "context"), ({"prompt": []}, "prompt"), ({"prompt": "", "max_tokens": 1}, "empty"),
                       ({"prompt": "a", "id_slot": 77}, "slot")):
        status, _, answer = server.ask("POST", "/v1/completions", body)
        check(status == 400 and answer["error"]["code"] == 400 and answer["error"]["type"] == "invalid_request_error", body, answer)
        check(name in answer["error"]["message"], answer)
    check(server.ask("POST", "/v1/completions", b"{")[0] == 400)
    check(server.ask("POST", "/v1/completions", b"\xff\xfe")[0] == 400)
    check(server.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})[0] == 400)
    status, _, answer = server.ask("GET", "/nothing")
    check(status == 404 and answer["error"]["type"] == "not_found_error", answer)
    status, headers, _ = server.ask("GET", "/v1/completions")
    check(status == 405 and headers["Allow"] == "POST")
    for method in ("OPTIONS", "POST"):
        status, headers, _ = server.ask(method, "/v1/completions", {"prompt": "a", "max_tokens": 1}, {"Origin": "http://x"})
        check(status == 403 and "Access-Control-Allow-Origin" not in headers, "CORS is off")
    own = {"Origin": f"http://localhost:{server.port}", "Host": f"localhost:{server.port}"}
    check(server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}, own)[0] == 200)
    renamed = {"Origin": f"http://evil:{server.port}", "Host": f"evil:{server.port}"}
    check(server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}, renamed)[0] == 403)


def raw_http(server):
    check(server.raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 "))
    check(server.raw(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 "))
    two = server.raw(b"GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    check(two.count(b"HTTP/1.1 200 OK") == 2, two)
    body = b'{"prompt": "ab", "max_tokens": 1}'
    chunked = b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    for i in range(0, len(body), 5):
        chunked += b"%x\r\n%s\r\n" % (len(body[i:i + 5]), body[i:i + 5])
    check(server.raw(chunked + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 "))
    check(server.raw(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n").startswith(b"HTTP/1.1 413 "))
    check(server.raw(b"GET / HTTP/1.1\r\nA: " + b"x" * 40000).startswith(b"HTTP/1.1 431 "))
    old = server.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (len(body) + 16) + body[:-1] + b', "stream": true}')
    check(b"chunked" not in old and old.endswith(b"data: [DONE]\n\n"), old)
    # A connection is used again.
    connection = server.connect()
    for _ in range(3):
        connection.request("GET", "/health")
        check(connection.getresponse().read() == b'{"status":"ok"}')
    connection.close()


def with_curl(server):
    curl = shutil.which("curl")
    if not curl:
        print("curl is absent: not asked through it")
        return
    url = f"http://127.0.0.1:{server.port}"
    done = subprocess.run([curl, "-sS", f"{url}/v1/completions", "-H", "Content-Type: application/json", "-H", "Expect: 100-continue",
                           "-d", '{"prompt": "ab", "max_tokens": 3}'], capture_output=True, text=True, timeout=60)
    check(json.loads(done.stdout)["usage"]["completion_tokens"] == 3, done)
    done = subprocess.run([curl, "-sSN", f"{url}/v1/completions", "-d", '{"prompt": "ab", "max_tokens": 3, "stream": true}'], capture_output=True,
                          text=True, timeout=60, errors="replace")
    check(done.returncode == 0 and done.stdout.endswith("data: [DONE]\n\n"), done)


def many_at_once(server):
    """Whatever runs beside it, a request gets what it gets alone."""
    bodies = [{"prompt": "abc" * (1 + i * 7 % 40), "max_tokens": 5 + i % 9, "seed": i, "temperature": i % 3 / 2} for i in range(40)]
    alone = [server.completion(**b)["choices"][0]["text"] for b in bodies]

    def text(i):
        if i % 2:
            return server.completion(**bodies[i])["choices"][0]["text"]
        return "".join(json.loads(e)["choices"][0]["text"] for e in server.stream("/v1/completions", bodies[i])[1][:-1])

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = list(pool.map(text, range(40)))
    check(together == alone, "differ:", [i for i in range(40) if together[i] != alone[i]])


def disconnects(server):
    before = server.metric("requests_cancelled_total")
    for stream in (True, False):
        s = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "a", "max_tokens": 100000, "ignore_eos": True, "stream": stream}).encode()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while server.metric("requests_processing") == 0:
            time.sleep(0.01)
        if stream:
            check(s.recv(10) == b"HTTP/1.1 2")
        s.close()
        check(server.wait_idle())
    check(server.metric("requests_cancelled_total") - before == 2, server.metric("requests_cancelled_total"))


def slots(server, folder):
    body = {"prompt": "abcdefgh", "max_tokens": 4, "temperature": 0, "id_slot": 1, "echo": True}
    first = server.completion(**body)
    rest = {**body, "prompt": list(b"abcdefgh") + [120] * 3, "echo": False}
    check(server.post("/slots/0?action=save", {"filename": "none"})[0] == 400, "an empty slot")
    status, _, saved = server.post("/slots/1?action=save", {"filename": "one.state"})
    check(status == 200 and saved["n_saved"] == 11 and saved["n_written"] == os.path.getsize(os.path.join(folder, "one.state")), saved)
    check(server.post("/slots/1?action=erase", {})[0] == 200)
    check(server.ask("GET", "/slots")[2][1]["n_past"] == 0)
    status, _, restored = server.post("/slots/2?action=restore", {"filename": "one.state"})
    check(status == 200 and restored["n_restored"] == 11, restored)
    longer = {**body, "prompt": first["choices"][0]["text"] + "tail", "echo": False}
    fresh = server.completion(**{**longer, "id_slot": -1})
    continued = server.completion(**{**longer, "id_slot": 2})
    # Only where the made text is whole characters do its bytes come back as the same tokens.
    if "\ufffd" not in first["choices"][0]["text"]:
        check(continued["usage"]["prompt_tokens_details"]["cached_tokens"] == 11, continued)
    check(continued["choices"][0]["text"] == fresh["choices"][0]["text"])
    check(server.completion(**rest)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "another text is read from its start")
    for name in ("../x", "/etc/passwd", "..", "a/b", "", ".hidden", 5, None):
        check(server.post("/slots/1?action=restore", {"filename": name})[0] == 400, name)
        check(server.post("/slots/1?action=save", {"filename": name})[0] == 400, name)
    with open(os.path.join(folder, "bad"), "wb") as out:
        out.write(b"RETORTST" + bytes(50))
    for name in ("bad", "absent"):
        status, _, answer = server.post("/slots/1?action=restore", {"filename": name})
        check(status == 400 and folder not in answer["error"]["message"], answer)
    check(server.post("/slots/99?action=erase", {})[0] == 400 and server.post("/slots/x?action=erase", {})[0] == 404)
    check(server.post("/slots/1", {})[0] == 400)


def states(server):
    """A slot's state as bytes: what comes back is what was fetched, and nothing else is taken."""
    body = {"prompt": "abcdefgh", "max_tokens": 4, "seed": 3, "id_slot": 0}
    server.completion(**body)

    def fetch(slot, method="GET", data=None, headers={}):
        connection = server.connect()
        connection.request(method, f"/slots/{slot}/state", data, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    answer, state = fetch(0)
    check(answer.status == 200 and answer.getheader("Content-Type") == "application/octet-stream" and state.startswith(b"RETORTST"), answer.status, state[:99])
    server.post("/slots/0?action=erase", {})
    answer, data = fetch(3, "PUT", state)
    check(answer.status == 200 and json.loads(data) == {"id_slot": 3, "n_restored": 11, "n_read": len(state)}, data)
    check(server.ask("GET", "/slots")[2][3]["n_past"] == 11)
    check(fetch(3)[1] == state, "the same bytes come back")
    for name, bad, words in (("nothing", b"", "not a state file"), ("cut", state[:-9], "cut at byte"), ("more", state + b"x", "follow the end"),
                             ("flipped", state[:-20] + bytes([state[-20] ^ 1]) + state[-19:], "checksum"), ("text", b"hello" * 99, "not a state file"),
                             ("huge", state[:-8][:200] + b"\xff" * 64, "sizes")):
        answer, data = fetch(3, "PUT", bad)
        check(answer.status == 400 and (words in json.loads(data)["error"]["message"] or name == "huge"), name, data)
    check(server.ask("GET", "/slots")[2][3]["n_past"] == 11, "what was there stays")
    check(fetch(0)[0].status == 400 and fetch(99)[0].status == 400 and fetch("x")[0].status == 404 and fetch(99, "PUT", state)[0].status == 400)
    check(server.ask("GET", "/slots/3")[0] == 404 and server.ask("PUT", "/slots/3", b"")[0] == 404)
    status, headers, _ = server.ask("DELETE", "/slots/3/state")
    check(status == 405 and headers["Allow"] == "POST, GET, PUT", headers)
    check(fetch(3, headers={"Host": f"evil:{server.port}"})[0].status == 403, "a page that lies about its address")
    check(fetch(3, headers={"Host": f"localhost:{server.port}"})[0].status == 200)
    server.post("/slots/3?action=erase", {})


def stopping_a_slot(model):
    """What is stopped ends whole, with its usage, and the slot goes on from it."""
    server = Server(model, "-np", "3", "-c", "0")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {"prompt": "abc", "max_tokens": 10**7, "ignore_eos": True, "id_slot": 2, "stream_options": {"include_usage": True}}
        future = pool.submit(server.stream, "/v1/completions", body)
        while server.ask("GET", "/slots")[2][2]["n_past"] < 10:
            time.sleep(0.01)
        check(server.post("/slots/2?action=stop", {})[0] == 200)
        status, events = future.result(timeout=60)
    check(status == 200 and events[-1] == "[DONE]", events[-2:])
    usage = json.loads(events[-2])["usage"]
    check(10 <= usage["completion_tokens"] + 3 < 10**6, usage)  # no context ends it
    check(json.loads(events[-3])["choices"][0]["finish_reason"] == "length")
    check(server.ask("GET", "/slots")[2][2]["n_past"] == usage["total_tokens"] - 1)
    check(server.post("/slots/2?action=stop", {})[0] == 200 and server.post("/slots/99?action=stop", {})[0] == 400)
    check(server.end() == 0)


def page(server, model):
    status, headers, text = server.ask("GET", "/")
    check(status == 200 and headers["Content-Type"] == "text/html; charset=utf-8" and text.startswith("<!doctype html>"), status)
    check("default-src 'none'" in headers["Content-Security-Policy"] and "unsafe" not in headers["Content-Security-Policy"], headers)
    check(headers["X-Content-Type-Options"] == "nosniff")
    check(server.ask("HEAD", "/")[2] == "" and server.ask("POST", "/", {})[0] == 405)
    check(server.ask("GET", "/props")[2]["max_state_bytes"] == 128 << 20)
    for flag in ("--no-ui", "--no-webui"):
        without = Server(model, flag)
        check(without.ask("GET", "/")[0] == 404)
        check(without.end() == 0)


def prefix_cache(server):
    """What was read before is not read again, and the answer has the same numbers; whoever does not want that says so."""
    def cached(answer):
        check(answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer)
        check(answer["timings"]["prompt_n"] + answer["timings"]["cache_n"] == answer["usage"]["prompt_tokens"], answer)
        return answer["timings"]["cache_n"]

    body = {"prompt": "A system prompt that many begin with. " * 4 + "Then a question?", "max_tokens": 12, "seed": 1, "logprobs": 3}
    fresh = server.completion(**{**body, "cache_prompt": False})
    hits = server.metric("prefix_cache_hits_total")
    first, again = server.completion(**body), server.completion(**body)
    longer = server.completion(**{**body, "prompt": body["prompt"] + " And another one."})
    refused = server.completion(**{**body, "cache_prompt": False})
    check(cached(fresh) == 0 and cached(first) == 0 and cached(refused) == 0, fresh, first, refused)
    check(cached(again) == 160 and cached(longer) == 160, again["timings"], longer["timings"])  # 168 tokens in chunks of 16
    for answer in (first, again, refused):
        check(answer["choices"] == fresh["choices"], answer, fresh)
    check(server.metric("prefix_cache_hits_total") - hits == 320)
    check(server.metric("prefix_cache_states") > 0 and server.metric("prefix_cache_bytes") > 0)
    talk = [{"role": "user", "content": "x" * 40}]
    chat = {"messages": talk, "max_tokens": 5, "temperature": 0}
    status, events = server.stream("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True}})
    check(status == 200 and json.loads(events[-2])["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, events[-2])
    answer = server.post("/v1/chat/completions", {**chat, "messages": talk + [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]})[2]
    check(cached(answer) == 48, answer)  # of the 58 tokens that both begin with


def speculation(model):
    """Guesses change the speed and nothing else."""
    bodies = [{"prompt": "abcabcabcabcabc" * 2, "max_tokens": 40, "temperature": t, "seed": 3, "logprobs": 1, "ignore_eos": True} for t in (0, 0.7)]
    plain = Server(model)
    expected = [plain.completion(**b) for b in bodies]
    check("draft_n" not in expected[0]["timings"], expected[0]["timings"])
    check(plain.end() == 0)
    for flags in (["--spec-type", "ngram"], ["-md", model, "--spec-draft-n-max", "3"]):
        server = Server(model, *flags)
        answers = [server.completion(**b) for b in bodies]
        for answer, e in zip(answers, expected):
            check(answer["choices"] == e["choices"], flags, answer, e)
        timings = answers[0]["timings"]
        check(timings["draft_n"] >= timings["draft_n_accepted"] > 0, flags, timings)
        if "-md" in flags:
            check(timings["draft_n_accepted"] == timings["draft_n"], "its own draft is always right", timings)
        made = sum(a["timings"].get("draft_n", 0) for a in answers), sum(a["timings"].get("draft_n_accepted", 0) for a in answers)
        check(made == (server.metric("spec_decode_num_draft_tokens_total"), server.metric("spec_decode_num_accepted_tokens_total")), made)
        check(server.end() == 0)


def control_tokens(model, folder):
    """What a user types is text; in a raw prompt it is what the tokenizer makes of it."""
    special = os.path.join(folder, "special")
    shutil.copytree(model, special)
    path = os.path.join(special, "tokenizer.json")
    with open(path) as file:
        tokenizer = json.load(file)
    tokenizer["added_tokens"] = [{"id": 256, "content": "<|im_end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                                  "special": True}]
    with open(path, "w") as file:
        json.dump(tokenizer, file)
    server = Server(special)
    count = lambda content: server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], "max_tokens": 1})[2]["usage"]["prompt_tokens"]
    check(count("<|im_end|>") == count("x" * 10), "a control token in a message is its characters")
    check(count([{"type": "text", "text": "<|im_end|>"}]) == count("x" * 10), "also in a list of parts")
    role = server.post("/v1/chat/completions", {"messages": [{"role": "<|im_end|>", "content": ""}], "max_tokens": 1})[2]["usage"]["prompt_tokens"]
    check(role == count("") - 4 + 10, "and in a role", role)
    check(server.completion(prompt="<|im_end|>", max_tokens=1)["usage"]["prompt_tokens"] == 1)
    check(server.end() == 0)


def loopback_only(server):
    """Nobody said otherwise: the socket listens on 127.0.0.1."""
    if not os.path.exists("/proc/net/tcp"):
        return print("no /proc/net/tcp: not looked at which address is listened on")
    with open("/proc/net/tcp") as file:
        listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
    check([a for a in listening if a.endswith(f":{server.port:04X}")] == [f"0100007F:{server.port:04X}"], listening)


def keys_and_limits(model, folder):
    with open(os.path.join(folder, "keys"), "w") as out:
        out.write("key-one\nkey-two\n")
    server = Server(model, "--api-key-file", os.path.join(folder, "keys"), "--api-key", "key-three", "-np", "1", "--queue", "1", "--max-body", "2000", "--max-state", "3000",
                    "--max-connections", "30", "--cors-origin", "http://page", "--sse-ping-interval", "0.2", "--timeout", "6", "-c", "0")
    body = {"prompt": "a", "max_tokens": 1}
    check(server.ask("GET", "/health")[0] == 200 and server.ask("GET", "/")[0] == 200, "no key is needed")
    check(server.ask("GET", "/slots/0/state")[0] == 401 and server.ask("PUT", "/slots/0/state", b"x")[0] == 401)
    for headers in ({}, {"Authorization": "Bearer key-on"}, {"Authorization": "key-one"}, {"Authorization": "Bearer key-one "  "x"}):
        status, _, answer = server.ask("POST", "/v1/completions", body, headers)
        check(status == 401 and answer["error"]["type"] == "authentication_error", headers, answer)
    key = {"Authorization": "Bearer key-two"}
    check(server.ask("POST", "/v1/completions", body, key)[0] == 200)
    check(server.ask("POST", "/v1/completions", body, {"Authorization": "Bearer key-three"})[0] == 200)
    check(server.ask("POST", "/v1/completions", {"prompt": "a" * 3000}, key)[0] == 413)
    check(server.ask("PUT", "/slots/0/state", b"x" * 2999, key)[0] == 400 and server.ask("PUT", "/slots/0/state", b"x" * 3001, key)[0] == 413)
    check(server.ask("OPTIONS", "/v1/completions")[0] == 204)
    check(server.ask("GET", "/health")[1]["Access-Control-Allow-Origin"] == "http://page")

    # One runs without an end of its own, one waits, the third is refused; the time limit ends the first.
    def start():
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 10**8, "ignore_eos": True, "stream": True}), key)
        return connection, connection.getresponse()

    started = time.time()
    running, first = start()
    check(first.status == 200)
    waiting, second = start()  # its head comes before it runs
    status, headers, answer = server.ask("POST", "/v1/completions", body, key)
    check(status == 429 and headers["Retry-After"] and answer["error"]["type"] == "rate_limit_error", status, answer)
    text = second.read().decode()
    check(": ping" in text and ('"code":503' in text or text.endswith("data: [DONE]\n\n")), "waited, and ran what was left of its time:", text[:500])
    text = first.read().decode(errors="replace")
    check('"finish_reason":"length"' in text and text.endswith("data: [DONE]\n\n"), text[-300:])
    check(5 < time.time() - started < 60, time.time() - started)
    for c in (running, waiting):
        c.close()
    # Too many connections: those beyond are told.
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(35)]
    time.sleep(0.3)
    idle[-1].settimeout(20)
    check(idle[-1].recv(100).startswith(b"HTTP/1.1 503 "), "a connection too many")
    for s in idle:
        s.close()
    for _ in range(100):  # until those are noticed to be closed
        status = server.ask("GET", "/health")[0]
        if status == 200:
            break
        time.sleep(0.1)
    check(status == 200)
    check(server.end(signal.SIGTERM) == 0)


def ending(model):
    """Ctrl-C: what runs ends whole, and the program with 0."""
    server = Server(model, "-np", "2")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.stream, "/v1/completions", {"prompt": "a", "max_tokens": 200, "ignore_eos": True})
        while server.metric("requests_processing") == 0 and not future.done():
            time.sleep(0.01)
        check(server.end() == 0, server.rest)
        status, events = future.result()
    check(status == 200 and events[-1] == "[DONE]", events[-2:])


def refused_starts(model, folder):
    server = Server(model)
    for flags, words in ((["--port", str(server.port)], "Address already in use"), (["--port", "0", "--slot-save-path", folder + "/absent"], "not a folder"),
                         (["--port", "0", "--api-key-file", folder + "/absent"], "absent"), (["--port", "0", "--host", "no.such.host.invalid"], "--host")):
        done = subprocess.run([RETORT, "serve", model, *flags], capture_output=True, text=True, timeout=60)
        check(done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, flags, done)
    check(server.end() == 0)


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([TINY_MODEL, folder], check=True)
        model = os.path.join(folder, "teacher")
        with open(os.path.join(model, "tokenizer_config.json"), "w") as out:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}, out)
        saved = os.path.join(folder, "slots")
        os.mkdir(saved)
        server = Server(model, "-np", "4", "-b", "16", "--slot-save-path", saved)
        try:
            for part in (small_endpoints, completions, log_probabilities, chat, streams, errors, raw_http, with_curl, many_at_once, prefix_cache,
                         disconnects, loopback_only):
                part(server)
                print("done:", part.__name__, flush=True)
            slots(server, saved)
            states(server)
            page(server, model)
            check(server.wait_idle() and server.process.poll() is None)
            check(server.end() == 0)
        finally:
            server.process.kill()
        keys_and_limits(model, folder)
        stopping_a_slot(model)
        speculation(model)
        control_tokens(model, folder)
        ending(model)
        refused_starts(model, folder)
    sys.exit(1 if failures else 0)


main()
