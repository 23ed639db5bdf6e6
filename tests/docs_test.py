#!/usr/bin/env python3
"""Paths, commands, flags and presets named in the documentation exist.

usage: docs_test.py RETORT        no packages needed
"""
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RETORT = sys.argv[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
# Folders whose files a page may name; everything below must exist, unless the name has a placeholder in it.
SOURCES = ("src/", "include/", "examples/", "tests/", "docs/", "recipes/", "scripts/", "cmake/", "bench/", ".ci/", ".github/")
# Made by building or running.
MADE = ("build/", "runs/", "models/", ".venv/", ".cache/", "../")
PLACEHOLDER = re.compile(r"[<>*{}…]|NAME|FILE|STEP|PRESET|TARGET|\.\.\.")

problems = []


def problem(page, number, text):
    problems.append(f"{page.relative_to(ROOT)}:{number}: {text}")


def help_of(*command):
    done = subprocess.run([RETORT, *command, "--help"], capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else None


def flags_in(text):
    return re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)", text)


commands = re.findall(r"^  ([a-z][a-z_-]*) +\S", help_of() or "", re.M)
helps = {name: help_of(name) for name in commands}  # None: its program was not built
scripts = {name: (ROOT / name).read_text() for name in ("quickstart", "check")}
presets = {p["name"] for p in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}


def check_path(page, number, path):
    path = path.rstrip(".,;:)").split("#")[0]
    if not path.startswith(SOURCES) or PLACEHOLDER.search(path):
        return
    if not (ROOT / path).exists():
        problem(page, number, f"{path} does not exist")


def check_command(page, number, line):
    words = line.split()
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words.pop(0)
    if not words:
        return
    program = words[0]
    if program in ("./quickstart", "./check"):
        known = scripts[program[2:]]
        for flag in flags_in(" ".join(words[1:])):
            if flag not in known:
                problem(page, number, f"{program} has no flag {flag}")
    elif Path(program).name == "retort" and len(words) > 1:
        name = words[1]
        if name.startswith("-") or PLACEHOLDER.search(name) or name == "COMMAND":
            return
        if name not in commands:
            problem(page, number, f"retort has no command {name}")
        elif helps[name] is not None:
            known = set(flags_in(helps[name])) | {"-md", "-np"}
            for flag in flags_in(re.sub(r"\"[^\"]*\"|'[^']*'", "", " ".join(words[2:]))):
                if flag not in known:
                    problem(page, number, f"retort {name} has no flag {flag}")
    elif program == "cmake":
        for preset in re.findall(r"--preset[ =](\S+)", line):
            if preset not in presets and not PLACEHOLDER.search(preset):
                problem(page, number, f"no CMake preset {preset}")


def check_page(page):
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if fenced:
            command = line.split("  #")[0].strip().removeprefix("$ ")
            check_command(page, number, command)
            for word in command.split():
                check_path(page, number, word)
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"^(https?:|mailto:|#)", target):
                continue
            if not (page.parent / target.split("#")[0]).exists():
                problem(page, number, f"link to {target}, which does not exist")
        for code in re.findall(r"`([^`]+)`", line):
            check_command(page, number, code)
            for word in code.split():
                if not word.startswith(MADE):
                    check_path(page, number, word)


for page in PAGES:
    if page.exists():
        check_page(page)
    else:
        problems.append(f"{page.relative_to(ROOT)} is missing")

print("\n".join(problems) if problems else f"ok: {len(PAGES)} pages, {len(commands)} commands")
sys.exit(bool(problems))
