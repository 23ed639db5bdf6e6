"""ReBased (mixers.md 3.9, arXiv 2402.10644)."""
import torch

from case import layer_norm
from outside import Outside
from outside_cores import SUMMING, by_head
from recurrences import summing

EPS = 1e-5


def quadratic(q, k, v):
    """Weights (q . k)^2 / width as a sum over products of pairs."""
    i, j = torch.triu_indices(q.shape[-1], q.shape[-1], 1)
    phi = lambda z: torch.cat([z * z, 2**0.5 * z[..., i] * z[..., j]], -1)
    return summing(phi(q) / q.shape[-1], phi(k), v, EPS)


def parallel(f):
    def core(q, k, v):
        total = torch.einsum("thd,shd->hts", q, k).square().tril().sum(-1).T / q.shape[-1] + EPS
        # It adds 1e-6 to the sum of the weights: scaled so that this is our eps.
        y = f(*by_head(q, k, v), scale=(q.shape[-1] * EPS / 1e-6) ** -0.5)
        return y[0].transpose(0, 1), total, None

    return core


def recurrent(feature_map):
    """fla's map of pairs in front of its recurrence, as its layer has them; unlike the weights alone, that has a state."""
    phi = lambda z: feature_map(z.shape[-1], normalize=False)(z)  # the norm is the layer's here
    attend = SUMMING[0].adapt(SUMMING[0].load())

    def core(q, k, v):
        y, total, state = attend(phi(q), phi(k), v, EPS)
        return y, total, state * q.shape[-1] ** 0.5  # theirs divides both sides by f^1/2, ours the queries by f

    return core


CORES = [Outside("fla ops/rebased/naive.py:naive_parallel_rebased", parallel),
         Outside("fla modules/feature_map.py:RebasedFeatureMap", recurrent)]


def feature(case, z, name):
    """gamma LayerNorm(z) + beta, of all of z or of f projections."""
    weight = case.get(name + ".weight")
    z = z if weight is None else torch.einsum("thd,hfd->thf", z, weight)
    return layer_norm(z, case.get("gamma"), EPS) + case.get("beta")


def layer(case, core=quadratic):
    q, k, v = case.qkv()
    keys = feature(case, case.leaving(case.turned(k)), "feature_k") * case.alive
    y, total, state = core(feature(case, case.turned(q), "feature_q"), case.repeated(keys), case.repeated(case.far(v)))
    return case.out(case.under_one_normaliser(y, total, 0.0, q, k, v)), state
