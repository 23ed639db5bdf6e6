#!/usr/bin/env python3
"""A finished plan of several runs as a Markdown table, a row a student in the plan's order.

    scripts/plan_table.py RUN          RUN: the --out of `retort distill PLAN.yaml`
"""
import json
import pathlib
import sys

from update_results import markdown, ratio_at_start, short

HEAD = ["run", "kept", "steps", "tokens", "ratio at the start", "ratio", "recall"]


def row(student, teacher):
    steps = " + ".join(f"{s['steps']} {s['name'].split('/', 1)[-1]}" for s in student["stages"])
    return [f"`{student['name']}`", student["kept"], steps, f"{student['tokens_trained']:,}", short(ratio_at_start(student, teacher)),
            short(student["perplexity_ratio"]), short(student["copy_perplexity"])]


def main(run):
    file = pathlib.Path(run) / "results.json"
    if not file.is_file():
        sys.exit(f"plan_table.py: {file}: no such file; the run has not finished")
    results = json.loads(file.read_text())
    print(markdown([HEAD, ["---"] * 3 + ["---:"] * 4] + [row(s, results["teacher"]) for s in results["students"]]), end="")


if len(sys.argv) != 2:
    sys.exit(__doc__)
main(sys.argv[1])
