"""Hedgehog (mixers.md 3.10, arXiv 2402.04347)."""
import torch

from case import rms
from outside import Outside
from outside_cores import SUMMING as CORES
from recurrences import summing


def feature(case, z, name):
    """One softmax over 2u and -2u, or one over u and one over -u."""
    weight, bias = case.get(name + ".weight"), case.get(name + ".bias")
    u = torch.einsum("thd,hfd->thf", z, weight.expand(z.shape[1], -1, -1)) + bias
    if case.fields["joint"]:
        return torch.cat([2 * u, -2 * u], -1).softmax(-1)
    return torch.cat([u.softmax(-1), (-u).softmax(-1)], -1)


def layer(case, core=summing, feature=feature):
    q, k, v = case.qkv()
    turned = case.rope if case.fields["rope"] else lambda z: z
    keys = feature(case, case.leaving(turned(k)), "feature_k") * case.alive
    y, total, state = core(feature(case, turned(q), "feature_q"), case.repeated(keys), case.repeated(case.far(v)), 1e-10)
    y = case.under_one_normaliser(y, total, 0.0, q, k, v)
    if case.fields["output_norm"]:
        y = rms(y, case.get("norm.weight"), case.eps)
    return case.out(y), state


def with_their_map(feature_map, case):
    """fla's map in front of fla's recurrence, one map for all heads."""

    def feature(case, z, name):
        tensors = {"layer." + end: case.get(f"{name}.{end}")[0] for end in ("weight", "bias")}
        return torch.func.functional_call(feature_map(case.head_dim), tensors, (z,), strict=True)

    return layer(case, CORES[0].adapt(CORES[0].load()), feature)


LAYERS = [Outside("fla modules/feature_map.py:HedgehogFeatureMap", with_their_map,
                  suits=lambda case: case.fields["joint"] and case.fields["shared"])]
