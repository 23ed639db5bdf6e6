#!/usr/bin/env python3
"""The chat page of `retort serve` in Chromium: what people do with it, by mouse and by keyboard, and what it must not do.

usage: page_test.py RETORT STUDENT_TOOL        exits 77 when Chromium or its driver is absent; no pip packages needed
"""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "oracles"))
from served import TEMPLATE, Served
from webdriver import Browser, chromium

RETORT, STUDENT_TOOL = sys.argv[1:3]
LETTERS = set(b"abcdefghijklmnopqrstuvwxyz")
ANSWERS = "document.querySelectorAll('.assistant .text')"
IDLE = "document.getElementById('stop').hidden && !document.querySelector('.busy')"


def letters_only(path):
    """Rows of the output matrix that are no letters become zero: what the model writes is text that encodes to the same tokens again."""
    with open(path, "r+b") as file:
        length, = struct.unpack("<Q", file.read(8))
        tensor = json.loads(file.read(length))["lm_head.weight"]
        row = (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // tensor["shape"][0]
        for token in set(range(tensor["shape"][0])) - LETTERS:
            file.seek(8 + length + tensor["data_offsets"][0] + token * row)
            file.write(bytes(row))


def student(folder):
    """Windows joined with recurrences, and attention in the layer between: a state with every kind of part."""
    config = dict(model_type="retort", teacher_model_type="llama", num_hidden_layers=3, hidden_size=64, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=16, intermediate_size=128, vocab_size=260, max_position_embeddings=512, rms_norm_eps=1e-5,
                  tie_word_embeddings=False, rope_theta=10000.0, bos_token_id=None, eos_token_id=None)
    own = [{"mixer": "gla", "kv_heads": [0, 1], "window": 8, "window_sinks": 1}]
    config["mixers"] = [own, [{"mixer": "attention", "kv_heads": [0, 1]}], own]
    with open(f"{folder}/student.json", "w") as out:
        json.dump(config, out)
    subprocess.run([STUDENT_TOOL, f"{folder}/student.json", f"{folder}/student"], check=True)
    with open(f"{folder}/student/tokenizer_config.json", "w") as out:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}, out)
    letters_only(f"{folder}/student/model.safetensors")
    return f"{folder}/student"


class Page:
    """The page in a browser, as a person sees it."""

    def __init__(self, browser, server):
        self.browser, self.url = browser, server.url
        browser.open(server.url + "/")

    def ready(self):
        self.browser.wait("document.title.includes('student')", what="the model's name")
        return self

    def set(self, **settings):
        self.browser.click("#settings")
        for name, value in settings.items():
            self.browser.run("document.querySelector(`[name=${arguments[0]}]`).value = ''", name)
            self.browser.type(f"[name={name}]", str(value))
        self.browser.click("#settings-dialog .main")

    def idle(self):
        self.browser.wait(IDLE, what="the end of the answer")

    def say(self, text):
        self.browser.type("#prompt", text)
        self.browser.click("#send")
        self.idle()
        return self.answer()

    def answer(self):
        return self.browser.run(f"return [...{ANSWERS}].at(-1)?.textContent")

    def facts(self):
        """made, prompt, cached: tokens of the last answer"""
        text = self.browser.run("return document.querySelector('.assistant:last-child .facts').textContent")
        found = re.match(r"([\d,]+) tokens.*prompt of ([\d,]+), ([\d,]+) cached", text)
        assert found, text
        return tuple(int(n.replace(",", "")) for n in found.groups())

    def button(self, name, index=-1):
        self.browser.run("[...document.querySelectorAll('#log button')].filter((b) => b.textContent === arguments[0]).at(arguments[1]).click()", name, index)

    def shown(self, id):
        return self.browser.run("return document.getElementById(arguments[0]).hidden ? '' : document.getElementById(arguments[0]).textContent", id)

    def load(self, path):
        self.browser.run("document.getElementById('file').hidden = false;"
                         "document.getElementById('problem').hidden = true; document.getElementById('note').textContent = ''")  # of before
        self.browser.type("#file", path)
        self.browser.run("document.getElementById('file').hidden = true")
        self.browser.wait("!document.getElementById('problem').hidden || /^Loaded/.test(document.getElementById('note').textContent)")

    def save(self):
        self.browser.click("#save")
        return self.browser.downloaded()

    def slots(self):
        return json.load(urllib.request.urlopen(self.url + "/slots"))


def policy(server):
    with urllib.request.urlopen(server.url + "/") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-"), answer.headers


def talks(page):
    page.ready().set(seed=7, top_k=8, max_tokens=40)
    first = page.say("hello there")
    assert re.fullmatch("[a-z]{40}", first), first
    made, prompt, cached = page.facts()
    assert (made, prompt, cached) == (40, len("<user>hello there;<assistant>"), 0), (made, prompt, cached)
    page.browser.wait(f"document.getElementById('m-tokens').textContent === '{prompt + 39}'", what="the tokens of the state")
    assert re.fullmatch(r"[\d.]+ (KB|MB)", page.shown("m-state")) and page.shown("m-speed").endswith("tokens/s")
    page.say("and now")
    assert page.facts()[2] == prompt + 39, "the second message goes on from the state"
    assert page.shown("m-cached") == str(prompt + 39)
    page.button("Regenerate")
    page.idle()
    assert len(page.browser.run(f"return [...{ANSWERS}].map((a) => a.textContent)")) == 2


def stops(page):
    page.set(max_tokens=1000000)
    page.browser.type("#prompt", "go on")
    page.browser.press("Enter")
    length = f"[...{ANSWERS}].at(-1).textContent.length"
    early = page.browser.wait(f"document.querySelector('.busy') && {length}", what="the first of a stream")
    page.browser.wait(f"document.querySelector('.busy') && {length} > {early}", what="more of a stream")
    assert page.browser.run("return document.getElementById('send').hidden && document.getElementById('save').disabled")
    page.browser.press("Escape")
    page.idle()
    assert page.browser.run("return document.querySelector('.assistant:last-child .facts').textContent").endswith("stopped")
    made, prompt, _ = page.facts()
    assert made == len(page.answer()), "the text is whole"
    page.set(max_tokens=20)
    page.say("again")
    assert page.facts()[2] == prompt + made - 1, "the state was that of the text"


def edits(page):
    page.button("Edit", 0)
    page.browser.press("Control", "a")
    page.browser.write("quite another")
    page.browser.press("Enter")
    page.idle()
    texts = page.browser.run("return [...document.querySelectorAll('.text')].map((t) => t.textContent)")
    assert len(texts) == 2 and texts[0] == "quite another", texts
    page.button("Edit", 0)
    page.browser.press("Escape")
    assert page.browser.run("return document.activeElement.textContent") == "Edit", "the focus is where it was"


def survives_a_reload(page):
    before = page.browser.run("return document.getElementById('log').textContent")
    page.browser.open(page.url + "/")
    page.ready()
    assert page.browser.run("return document.getElementById('log').textContent") == before
    tokens = page.facts()
    page.say("still here")
    assert page.facts()[2] == tokens[1] + tokens[0] - 1, "the tab found its slot again"


def saves_and_loads(page, fresh):
    """Another server goes on as this one does, token for token, and without reading the words again."""
    saved = page.save()
    note = page.browser.wait("document.getElementById('note').textContent.startsWith('Saved') && document.getElementById('note').textContent")
    assert re.match(r"Saved, with [\d.]+ KB of state", note), note
    here = page.say("what next")
    counts = page.facts()
    assert counts[2] > 0
    other = Page(page.browser, fresh).ready()
    other.load(saved)
    assert f"{counts[2]} tokens need not be read again" in other.shown("note"), (other.shown("note"), other.shown("problem"))
    assert other.say("what next") == here and other.facts() == counts, (here, other.answer(), counts, other.facts())
    page.browser.click("#new")
    other.browser.wait("document.querySelectorAll('article').length === 0")
    assert sum(slot["n_past"] for slot in other.slots()) == 0, "the slot was given back"
    other.browser.run("document.querySelector('#note button').click()")
    other.browser.wait("document.querySelectorAll('article').length > 2", what="the old conversation")
    return saved


def refuses_wrong_files(page, saved, folder):
    with open(saved, "rb") as file:
        good = file.read()
    length, = struct.unpack_from("<I", good, 12)
    damaged = bytearray(good)
    damaged[-100] ^= 1
    foreign = bytearray(good)
    foreign[16 + length + 20] ^= 1  # in the name of the state's model
    words = json.dumps({"messages": [{"role": "system", "content": "x"}]}).encode()
    cases = (("text", b"hello", "is no conversation saved by Retort"), ("cut", good[:60], "was cut"),
             ("later", good[:8] + struct.pack("<I", 9) + good[12:], "version 9"), ("json", good[:16] + b"}" + good[17:], "damaged"),
             ("roles", good[:12] + struct.pack("<I", len(words)) + words, "its messages are none"),
             ("state", damaged, "the checksum does not fit"), ("model", foreign, "belongs to model"))
    for name, content, expected in cases:
        path = os.path.join(folder, name + ".retort")
        with open(path, "wb") as out:
            out.write(content)
        page.load(path)
        assert expected in page.shown("problem"), (name, page.shown("problem"))
    assert len(page.browser.run(f"return [...{ANSWERS}]")) > 0, "the words of the last one are here"
    page.browser.click("#problem button")


def shows_text_as_text(page, folder):
    text = "<img src=x onerror=alert(1)> **bold `b`** and `<i>`\n\n```html\n<script>alert(2)</script>\n```\n- one\n- two\n  1. three\n\n[a](javascript:alert(3))"
    content = {"messages": [{"role": "user", "content": "<b>hi</b>"}, {"role": "assistant", "content": text, "facts": "<u>"}], "settings": {"seed": "x<", "top_k": 3}}
    data = json.dumps(content).encode()
    path = os.path.join(folder, "hostile.retort")
    with open(path, "wb") as out:
        out.write(b"RETORTCH" + struct.pack("<II", 1, len(data)) + data)
    page.load(path)
    tags = page.browser.run("return [...document.querySelectorAll('.text *')].map((e) => e.localName)")
    assert sorted(tags) == sorted(["p", "strong", "code", "code", "pre", "code", "ul", "li", "li", "ol", "li", "p"]), tags
    shown = page.browser.run("return document.getElementById('log').textContent")
    for part in ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "<b>hi</b>", "<u>", "[a](javascript:alert(3))"):
        assert part in shown, (part, shown)
    assert page.browser.run("return document.querySelector('[name=seed]').value + document.querySelector('[name=top_k]').value") == "3"


def by_keyboard(page):
    """The tab key reaches everything, one sees where it is, and nothing needs a mouse."""
    browser = page.browser
    page.set(seed=1, top_k=8, max_tokens=20)
    browser.run("sessionStorage.removeItem('conversation')")
    browser.open(page.url + "/")
    page.ready()
    assert browser.run("return document.activeElement.id") == "prompt"
    browser.write("one")
    browser.press("Shift", "Enter")
    browser.write("two")
    browser.press("Enter")
    page.idle()
    assert browser.run("return document.querySelector('.user .text').textContent") == "one\ntwo"
    seen = []
    for _ in range(20):
        browser.press("Tab")
        where = browser.run("const a = document.activeElement; return a === document.body ? '' : a.id || a.textContent")
        outlined = browser.run("const a = document.activeElement, s = getComputedStyle(a), c = getComputedStyle(a.parentElement);"
                               "return a === document.body || s.outlineStyle !== 'none' || c.boxShadow !== 'none'")
        assert outlined, f"no visible focus on {where}"
        seen.append(where)
    for name in ("new", "save", "load", "settings", "theme", "Edit", "Copy", "Regenerate", "prompt"):
        assert name in seen, (name, seen)
    assert seen.index("new") < seen.index("settings") < seen.index("Edit") < seen.index("Regenerate")
    browser.run("document.getElementById('settings').focus()")
    browser.press("Enter")
    browser.wait("document.getElementById('settings-dialog').open")
    browser.press("Escape")
    browser.wait("!document.getElementById('settings-dialog').open && document.activeElement.id === 'settings'", what="the focus back on Settings")
    browser.run("[...document.querySelectorAll('#log button')].find((b) => b.textContent === 'Regenerate').focus()")
    browser.press("Enter")
    page.idle()
    browser.wait("document.activeElement.id === 'prompt'")
    names = browser.run("return [...document.querySelectorAll('button, input, textarea')].filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).length")
    assert names == 0, "something to press or to fill in has no name"


def looks(page):
    """Both themes have the contrast that WCAG AA asks of text; a phone's width is enough."""
    pairs = (("ink", "paper"), ("ink", "mine"), ("ink", "card"), ("faint", "paper"), ("faint", "card"), ("faint", "mine"), ("accent", "card"),
             ("on-accent", "accent"), ("bad", "bad-back"))

    def light(color):
        parts = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
        return sum(w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for w, v in zip((0.2126, 0.7152, 0.0722), parts))

    color = "const e = document.createElement('p'); e.style.color = `var(--${arguments[0]})`; document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c"
    grounds = set()
    for _ in range(2):
        for front, back in pairs:
            a, b = sorted((light(page.browser.run(color, front)), light(page.browser.run(color, back))))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (front, back, (b + 0.05) / (a + 0.05))
        grounds.add(page.browser.run(color, "paper"))
        page.browser.click("#theme")
    assert len(grounds) == 2, grounds
    page.browser.click("#theme")
    page.browser.open(page.url + "/")
    page.ready()
    assert page.browser.run(color, "paper") not in page.browser.run("document.getElementById('theme').click(); " + color, "paper"), "the theme is remembered"
    page.browser.resize(390, 844)
    assert page.browser.run("return document.documentElement.scrollWidth") <= 390
    page.browser.resize(1100, 800)


def tabs_keep_apart(page):
    browser = page.browser
    page.say("mine")
    browser.call("POST", "/window", {"handle": browser.call("POST", "/window/new", {"type": "tab"})["handle"]})
    other = Page(browser, page)
    other.ready().set(max_tokens=5)
    other.say("yours")
    assert sum(slot["n_past"] > 0 for slot in page.slots()) == 2, page.slots()


def asks_for_the_key(browser, model):
    with Served(RETORT, model, "--threads", "1", "--api-key", "open sesame") as server:
        page = Page(browser, server)
        browser.wait("document.getElementById('key-dialog').open")
        browser.write("wrong")
        browser.press("Enter")
        browser.wait("document.getElementById('key-dialog').open && !document.getElementById('key-problem').hidden", what="the second question")
        browser.write("open sesame")
        browser.press("Enter")
        page.ready().set(max_tokens=5)
        assert len(page.say("hi")) > 0
        browser.open(server.url + "/")
        page.ready()
        assert not browser.run("return document.getElementById('key-dialog').open"), "the tab remembers"


def quiet(browser, servers, allowed=()):
    """Nothing was asked of anybody else, and the console has no errors."""
    for url in browser.requests():
        assert url.startswith(("chrome://", "data:", "blob:", *(s.url + "/" for s in servers))), url
    for entry in browser.log("browser"):
        assert entry["level"] not in ("SEVERE", "WARNING") or any(a in entry["message"] for a in allowed), entry


def main():
    if not chromium():
        print("skipped: chromium and chromedriver are not installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        model = student(folder)
        flags = ("--threads", "1", "-np", "4", "-c", "0", "-b", "16")
        with Served(RETORT, model, *flags) as server, Served(RETORT, model, *flags) as fresh:
            policy(server)
            page = Page(browser, server)
            for part in (talks, stops, edits, survives_a_reload):
                part(page)
                print("done:", part.__name__, flush=True)
            saved = saves_and_loads(page, fresh)
            quiet(browser, (server, fresh))
            page = Page(browser, fresh).ready()
            refuses_wrong_files(page, saved, folder)
            quiet(browser, (fresh,), allowed=("/state - Failed to load resource: the server responded with a status of 400",))
            shows_text_as_text(page, folder)
            for part in (by_keyboard, looks, tabs_keep_apart):
                part(page)
                print("done:", part.__name__, flush=True)
            quiet(browser, (fresh,))
        asks_for_the_key(browser, model)
    print("ok")


main()
