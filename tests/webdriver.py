"""A real browser for tests: Chromium through its driver's HTTP interface (W3C WebDriver). No packages needed."""
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the protocol has an element
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars")
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Shift": "\ue008", "Control": "\ue009", "Space": " "}


def chromium():
    """The browser and its driver, or None."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """with Browser() as browser: one window with a profile of its own, gone afterwards."""

    def __init__(self, width=1100, height=800, flags=()):
        program, driver = chromium()
        self.folder = tempfile.mkdtemp()
        self.downloads = os.path.join(self.folder, "downloads")
        os.mkdir(self.downloads)
        environment = {**os.environ, "HOME": self.folder}
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for line in self.driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                break
        self.url = f"http://127.0.0.1:{found.group(1)}"
        options = {"binary": program, "args": [*FLAGS, f"--user-data-dir={self.folder}/profile", f"--window-size={width},{height}", *flags],
                   "prefs": {"download.default_directory": self.downloads, "download.prompt_for_download": False}}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = ""
        try:
            self.session = "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        try:
            if self.session:
                self.call("DELETE", "")
        except OSError:
            pass
        self.driver.terminate()
        self.driver.wait(20)
        self.driver.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, path, body=None):
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + self.session + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message'].splitlines()[0]}") from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *values):
        """What the script returns; it may be a promise."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(values)})

    def wait(self, script, *values, seconds=60, what=""):
        """Until the expression is true; its value."""
        end = time.time() + seconds
        while True:
            value = self.run(f"return {script}", *values)
            if value:
                return value
            if time.time() > end:
                raise AssertionError(f"after {seconds} s not yet: {what or script}")
            time.sleep(0.03)

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys):
        """Keys to whatever has the focus; the last one is hit while the others are held."""
        names = [KEYS.get(key, key) for key in keys]
        actions = [{"type": "keyDown", "value": name} for name in names] + [{"type": "keyUp", "value": name} for name in reversed(names)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def write(self, text):
        """As if typed, letter by letter, wherever the focus is."""
        for letter in text:
            self.press(letter)

    def resize(self, width, height):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def devtools(self, command, **values):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def screenshot(self, path):
        with open(path, "wb") as out:
            out.write(base64.b64decode(self.call("GET", "/screenshot")))

    def log(self, kind):
        """Entries since the last call: of the console ("browser"), or of the network and the rest ("performance")."""
        return self.call("POST", "/se/log", {"type": kind})

    def requests(self):
        """Addresses that were asked since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def downloaded(self, seconds=30):
        """The path of the newest whole download, once there is one more than before."""
        seen = getattr(self, "seen", set())
        end = time.time() + seconds
        while time.time() < end:
            new = [name for name in os.listdir(self.downloads) if not name.endswith((".crdownload", ".tmp")) and not name.startswith(".") and name not in seen]
            if new:
                self.seen = seen | set(new)
                return os.path.join(self.downloads, new[0])
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")
