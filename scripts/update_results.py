#!/usr/bin/env python3
"""Writes docs/results.md and its picture from a finished study of the mixers.

    build/release/bin/retort distill recipes/mixer-study.yaml --teacher MODEL --data FILE... --out runs/mixer-study
    scripts/update_results.py [RUN [PAGE]]          default: runs/mixer-study, docs/results.md; the picture goes to images/ beside the page
"""
import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = ["mixer", "window", "parameters", "state", "ratio at the start", "ratio", "recall", "align tok/s", "kd tok/s", "decode tok/s"]
PICTURE = "images/mixers.svg"
BY_HAND = "## What it shows\n"  # from here on the page is written by people, and kept
PAGE = """# Every mixer on the same budget

{students} students of one teacher, each trained for {minutes:.1f} minutes on the same text by `recipes/mixer-study.yaml`: layer-wise alignment, then
logit distillation. {cpu}, {threads} threads, Retort {version}; `scripts/update_results.py` writes this page.

- *ratio*: perplexity on held-out text over the teacher's, {teacher:.2f}, in windows of {window} tokens.
- *recall*: perplexity of the second copy of a passage of {distance} tokens that stands twice in the context, so that the first copy is
  {distance} tokens away; 1 is perfect, {fresh} is what the control scores, whose window does not reach the first copy.
- *state*: bytes that one sequence keeps after {context} tokens; *decode*: one sequence from there, weights as {weights}.
- *align*, *kd*: tokens a second of training.

The row `window` is the control, a window and no recurrence: a joined mixer that does not beat it is not worth its state.

{table}
![Perplexity over the teacher's, at the start and after training]({picture})

## What they write

Greedy, with a repeat penalty of 1.1, after "{prompt}":

{samples}

"""


def split(name):
    """("gla", "64") of gla-64, ("gla", "-") of gla; the control's window is the same."""
    if name == "window":
        return name, "64"
    return (name[: -len("-64")], "64") if name.endswith("-64") else (name, "-")


def number(value, form):
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def short(value):
    return number(value, ".3f" if value is not None and value < 10 else ".4g")


def memory(count):
    return f"{count / 1e6:.2f} MB"


def stage_rate(student, stage):
    for s in student["stages"]:
        if s["name"].endswith("/" + stage) and s["seconds"] > 0:
            return f"{s['tokens'] / s['seconds']:.0f}"
    return "-"


def ratio_at_start(student, teacher):
    start = student["perplexity_init"]
    return None if start is None else start / teacher["perplexity"]


def row(student, teacher):
    name, window = split(student["name"])
    last = student["throughput"][-1]
    return [f"`{name}`", window, f"{student['parameters'] / 1e6:.1f} M", memory(last["state_bytes"]), short(ratio_at_start(student, teacher)),
            short(student["perplexity_ratio"]), short(student["copy_perplexity"]), stage_rate(student, "align"),
            stage_rate(student, "kd"), f"{last['tokens_per_second']:.0f}"]


def markdown(rows):
    return "\n".join("| " + " | ".join(r) + " |" for r in rows) + "\n"


def table(teacher, students):
    last = teacher["throughput"][-1]
    rows = [["teacher", "-", f"{teacher['parameters'] / 1e6:.1f} M", memory(last["state_bytes"]), "-", "1.000",
             short(teacher["copy_perplexity"]), "-", "-", f"{last['tokens_per_second']:.0f}"]]
    rows += [row(s, teacher) for s in students]
    rule = ["---", "---:"] + ["---:"] * (len(HEAD) - 2)
    return markdown([HEAD, rule] + rows)


def samples(students, prompt):
    """A code block, so that nothing a student writes is read as Markdown."""
    width = max(len(s["name"]) for s in students)
    lines = [f"{s['name']:{width}}  {' '.join(s['sample'].removeprefix(prompt).split())}".replace("```", "'''") for s in students]
    return "```\n" + "\n".join(lines) + "\n```"


def picture(teacher, students):
    """One line a mixer, best first: small dots at the start, large ones trained; filled alone, open with the window. Logarithmic."""
    left, right, top, step, width = 130, 20, 56, 20, 760
    found = {}
    for s in students:
        name, window = split(s["name"])
        found.setdefault(name, []).append((window, ratio_at_start(s, teacher), s["perplexity_ratio"]))
    ratios = [r for values in found.values() for v in values for r in v[1:] if r is not None and math.isfinite(r)]
    end = max(2.0, max(ratios, default=2.0))
    height = top + step * len(found) + 30

    def x(ratio):
        return left + (width - left - right) * math.log(min(max(ratio, 1.0), end)) / math.log(end)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           "<style>.t{fill:#333}.g{stroke:#ccc}.a{fill:#1f6feb;stroke:#1f6feb}.w{fill:#fff;stroke:#d1242f;stroke-width:2}.c{stroke:#888}"
           "@media(prefers-color-scheme:dark){.t{fill:#ccc}.g{stroke:#444}.w{fill:#111}}</style>",
           f'<circle class="a" cx="{left + 6}" cy="14" r="5"/><text class="t" x="{left + 16}" y="18">alone</text>',
           f'<circle class="w" cx="{left + 76}" cy="14" r="5"/><text class="t" x="{left + 86}" y="18">with a 64-token window</text>',
           f'<text class="t" x="{left + 250}" y="18">small: at the start; line down: the window alone</text>']
    for tick in (n * 10**e for e in range(0, 12) for n in (1, 2, 5)):
        if tick <= end:
            out.append(f'<line class="g" x1="{x(tick):.1f}" y1="{top - 12}" x2="{x(tick):.1f}" y2="{height - 26}"/>'
                       f'<text class="t" x="{x(tick):.1f}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    for _, _, ratio in found.get("window", []):
        out.append(f'<line class="c" x1="{x(ratio):.1f}" y1="{top - 12}" x2="{x(ratio):.1f}" y2="{height - 26}"/>')
    for i, (name, values) in enumerate(found.items()):
        y = top + step * i
        out.append(f'<text class="t" x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for window, start, ratio in values:
            kind = "a" if window == "-" else "w"
            out += [f'<circle class="{kind}" cx="{x(value):.1f}" cy="{y}" r="{size}"/>'
                    for value, size in ((start, 2.5), (ratio, 5)) if value is not None and math.isfinite(value)]
    return "\n".join(out + ["</svg>"]) + "\n"


def main(run=ROOT / "runs/mixer-study", page=ROOT / "docs/results.md"):
    file, page = pathlib.Path(run) / "results.json", pathlib.Path(page)
    if not file.is_file():
        sys.exit(f"{file}: no finished run; see the head of this script")
    results = json.loads(file.read_text())
    teacher, machine, plan = results["teacher"], results["machine"], results["recipe"]["evaluate"]
    students = sorted(results["students"], key=lambda s: s["perplexity_ratio"] if s["perplexity_ratio"] is not None else math.inf)
    control = next((s["copy_perplexity"] for s in students if s["name"] == "window"), None)
    by_hand = page.read_text().partition(BY_HAND)[1:] if page.is_file() else ()
    drawing = page.parent / PICTURE
    drawing.parent.mkdir(parents=True, exist_ok=True)
    drawing.write_text(picture(teacher, students))
    page.write_text(PAGE.format(
        students=len(students), minutes=sum(s["seconds"] for s in students) / len(students) / 60, cpu=machine["cpu"], threads=machine["threads"],
        version=machine["retort"], table=table(teacher, students), teacher=teacher["perplexity"], window=teacher["perplexities"][0]["window"],
        context=teacher["throughput"][-1]["context"], distance=plan["copy_length"], fresh=short(control), weights=plan["speed_weights"],
        picture=PICTURE, prompt=results["prompt"], samples=samples(students, results["prompt"])) + "".join(by_hand))
    print(f"{page}: {len(students)} students of {run}")


if __name__ == "__main__":
    main(*sys.argv[1:])
