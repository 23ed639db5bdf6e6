#!/usr/bin/env python3
"""Every mixer of the registry against its equations, written again here from the papers, and against implementations that nobody here
wrote: the layer's output, its last state and the gradients of a random sum of its output.

    mixers MIXER_TOOL [MIXER_GRADIENTS]      exit 0: all agree, 1: something differs, 77: torch is missing

One file a mixer, named as it: `layer(case, core=...)` is its layer (case.py has the stages), CORES the outside recurrences that can
stand in for its own, LAYERS outside layers that take its tensors as they are. A mixer without a file fails, and so does one whose output or last
state nobody else's code has given. Without MIXER_GRADIENTS, which only a build with the trainer has, gradients are not compared.
"""
import importlib
import json
import subprocess
import sys

try:
    import torch
except ImportError:
    print("SKIP: torch is not installed in this Python")
    sys.exit(77)

from case import Case
from outside import TOLERANCE, Absent, in_double


def distance(ours, theirs):
    """Largest difference over the largest value; gradients that should vanish are held against 1e-3."""
    if not torch.isfinite(theirs).all():
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3))


def gradients_of(case, y):
    """Of the sum that mixer_gradients took."""
    leaves = case.leaves()
    found = torch.autograd.grad((y * case.direction).sum(), list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found)}


def compare(case, y, state):
    """The worst distance and what it is of."""
    errors = {"output": distance(case.y, y.detach())}
    if state is not None:
        group = state.shape[0] // case.state.shape[0]  # a kv head's state stands in `state` for each of its query heads
        errors["state"] = distance(case.state[..., : state.shape[-1]], state.detach()[::group])
    if case.gradients is not None:
        for name, gradient in gradients_of(case, y).items():
            errors["gradient of " + name] = distance(case.gradients[name], gradient)
    worst = max(errors, key=errors.get)
    return errors[worst], worst, len(errors)


def stand_ins(mixer, case):
    """Other people's code for this mixer: (Outside, function from what was loaded to output and state)."""
    for core in getattr(mixer, "CORES", []):
        if core.suits(case):
            yield core, lambda loaded: mixer.layer(case, core.adapt(loaded))
    for layer in getattr(mixer, "LAYERS", []):
        if layer.suits(case):
            yield layer, lambda loaded: layer.adapt(loaded, case)


def lines_of(tool):
    process = subprocess.Popen([tool], stdout=subprocess.PIPE, text=True)
    yield from process.stdout
    if process.wait() != 0:
        sys.exit(f"{tool} failed with {process.returncode}")


def main(mixer_tool, mixer_gradients=None):
    torch.set_num_threads(1)
    gradients = lines_of(mixer_gradients) if mixer_gradients else None
    failed, compared, absent = 0, 0, set()
    own, outside_gave = {"output": set(), "state": set()}, {"output": set(), "state": set()}  # mixers
    for line in lines_of(mixer_tool):
        case = Case(line, next(gradients) if gradients else None)
        try:
            mixer = importlib.import_module(case.mixer)
        except ModuleNotFoundError:
            print(f"no oracle for mixer '{case.mixer}': write {__file__.replace('__main__', case.mixer)}")
            failed += 1
            continue
        found = [("its equations", TOLERANCE, *mixer.layer(case))]
        own["output"].add(case.mixer)
        if case.state is not None:
            own["state"].add(case.mixer)
        for outside, run in stand_ins(mixer, case):
            try:
                loaded = outside.load()
            except Absent as reason:
                absent.add(str(reason))
                continue
            with in_double():
                found.append((outside.source, outside.tolerance, *run(loaded)))
            outside_gave["output"].add(case.mixer)
            if found[-1][-1] is not None:
                outside_gave["state"].add(case.mixer)
        for label, tolerance, y, state in found:
            error, of, values = compare(case, y, state)
            verdict = "ok" if error < tolerance else "DIFFERS"
            failed += verdict != "ok"
            compared += 1
            print(f"{verdict:8} {error:.1e} of {tolerance:.0e}  {case.name}: {label} ({of}, worst of {values})")
    for reason in sorted(absent):
        print(f"SKIP (this part only): {reason}")
    for what, mixers in own.items():
        missing = sorted(mixers - outside_gave[what])
        if missing and not absent:
            print(f"no code of others gives the {what} of: {', '.join(missing)}")
            failed += 1
    print(f"{compared} comparisons, {failed} differ{'' if gradients else '; gradients were not compared: no trainer in this build'}")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
