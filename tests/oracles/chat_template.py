#!/usr/bin/env python3
"""Chat templates against jinja2, configured as transformers does.

chat_template.py TOOL      (the built jinja_tool)
  RETORT_TEMPLATES  folder with *.jinja of real models (default .cache/templates); without it only the repository's own run
"""
import datetime
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

try:
    import jinja2  # noqa: F401
    from transformers.utils import chat_template_utils
except ImportError as e:
    print("SKIPPED: pip package missing:", e)
    sys.exit(77)

NOW = datetime.datetime(2026, 3, 4, 5, 6)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather in a \"city\"", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "naïve <b>city</b>"},
                                     "unit": {"type": "string", "enum": ["C", "F"]}, "days": {"type": "integer", "default": 3}},
    "required": ["city"]}}}]
USER = {"role": "user", "content": "  Hi <|im_end|> there'\"\n "}
CONVERSATIONS = {
    "one": [USER],
    "turns": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!\n"}, {"role": "user", "content": "Größe? 日本"}],
    "system": [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hello"}],
    "thinking": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"}, {"role": "user", "content": "more"}],
    "answered": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]}],
    "calls": [{"role": "user", "content": "weather?"},
              {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
                  "name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}]},
              {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "{\"t\": 21.5}"}],
    "two-systems": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
    "assistant-first": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "U"}],
}
BASE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "documents": None}


def cases():
    for name, messages in CONVERSATIONS.items():
        for prompt in (True, False):
            for tools in (None, TOOLS):
                if tools and name not in ("one", "system", "calls"):
                    continue
                yield f"{name} prompt={prompt} tools={bool(tools)}", {
                    **BASE, "messages": messages, "add_generation_prompt": prompt, "tools": tools}


def reference(source, variables):
    """("text", ...), or ("error", ...)."""
    try:
        compiled = chat_template_utils._compile_jinja_template(source)
        compiled.globals["strftime_now"] = NOW.strftime
        return "text", compiled.render(**variables)
    except Exception as e:
        return "error", f"{type(e).__name__}: {e}"


def ask(tool, questions):
    lines = "".join(json.dumps({"template": s, "variables": v, "untrusted": ["messages"],
                                "now": [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute]}) + "\n" for s, v in questions)
    out = subprocess.run([tool], input=lines.encode(), capture_output=True)
    answers = [json.loads(line) for line in out.stdout.decode().splitlines()]
    if out.returncode or len(answers) != len(questions):
        sys.exit(f"FAILED: the tool ended with {out.returncode} after {len(answers)} of {len(questions)} answers: {out.stderr.decode()[-500:]}")
    return answers


def compare(tool, name, source, all_cases, show=2):
    """(cases that agree, cases where both refuse, cases that differ)"""
    agree = refuse = differ = 0
    for (label, variables), ours in zip(all_cases, ask(tool, [(source, v) for _, v in all_cases])):
        kind, want = reference(source, variables)
        # jinja2's map and select are generators, which its tojson refuses; ours are lists.
        if kind == "error" and ("error" in ours or "type generator is not JSON" in want):
            refuse += 1
        elif kind == "text" and ours.get("text") == want:
            agree += 1
        else:
            differ += 1
            if differ <= show:
                got = ours.get("text", ours.get("error"))
                at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                print(f"  DIFFERS {name} [{label}]: {kind} at {at}: ours {got[max(0, at - 30):at + 90]!r} jinja2 {want[max(0, at - 30):at + 90]!r}")
    return agree, refuse, differ


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tool = sys.argv[1]
    bad = 0
    small = json.loads((pathlib.Path(__file__).parent / "templates" / "small.json").read_text())
    variables = {**BASE, **small["variables"], "messages": CONVERSATIONS["turns"], "add_generation_prompt": True}
    totals = [0, 0, 0]
    for i, source in enumerate(small["templates"]):
        result = compare(tool, f"small {i} {source!r}", source, [("", variables)])
        totals = [a + b for a, b in zip(totals, result)]
    print(f"small templates: {totals[0]} agree, {totals[1]} refused by both, {totals[2]} differ")
    bad += totals[2]
    all_cases = list(cases())
    own = sorted((pathlib.Path(__file__).parent / "templates").glob("*.jinja"))
    folder = pathlib.Path(os.environ.get("RETORT_TEMPLATES", ROOT / ".cache/templates"))
    real = sorted(folder.glob("*.jinja"))
    if not real:
        print("SKIPPED PART: no *.jinja in", folder)
    same = 0
    for path in own + real:
        agree, refuse, differ = compare(tool, path.name, path.read_text(), all_cases)
        same += differ == 0
        bad += differ
        if differ:
            print(f"FAIL {path.name}: {agree} agree, {refuse} refused by both, {differ} differ")
    print(f"{same} of {len(own + real)} template files agree in all {len(all_cases)} conversations")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
