// exp, log1p and what follows from them, over a simd struct S (simd_scalar.h).
// Layer: kernels.
#pragma once

namespace retort {

template <class S>
struct SimdMath {
  using F = typename S::F;

  // e^x = 2^n e^r, |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7 (error 5e-9). 2^(n-1) * 2, so that n = 128 works.
  static F exp(F x) {
    const F least = S::set1(-86.6f);
    const F c = S::min(S::set1(89.0f), S::max(least, x));  // in this order NaN passes through
    const auto n = S::round(S::mul(c, S::set1(1.44269504f)));
    const F nf = S::to_float(n);
    F r = S::fma(nf, S::set1(-0.693359375f), c);
    r = S::fma(nf, S::set1(2.12194440e-4f), r);
    F p = S::set1(1.0f / 5040);
    p = S::fma(p, r, S::set1(1.0f / 720));
    p = S::fma(p, r, S::set1(1.0f / 120));
    p = S::fma(p, r, S::set1(1.0f / 24));
    p = S::fma(p, r, S::set1(1.0f / 6));
    p = S::fma(p, r, S::set1(0.5f));
    p = S::fma(p, r, S::set1(1.0f));
    p = S::fma(p, r, S::set1(1.0f));
    const F doubled = S::add(p, p);
    return S::zero_where_less(S::scale_by_power(doubled, S::minus_one(n)), x, least);
  }

  // e^x - 1 = 2^n (e^r - 1) + (2^n - 1), which loses nothing where n = 0: near 0.
  static F expm1(F x) {
    const F c = S::min(S::set1(89.0f), S::max(S::set1(-86.6f), x));
    const auto n = S::round(S::mul(c, S::set1(1.44269504f)));
    const F nf = S::to_float(n);
    F r = S::fma(nf, S::set1(-0.693359375f), c);
    r = S::fma(nf, S::set1(2.12194440e-4f), r);
    F p = S::set1(1.0f / 5040);
    for (float k : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) p = S::fma(p, r, S::set1(k));
    const F half = S::scale_by_power(S::set1(1.0f), S::minus_one(n));
    const F y = S::fma(S::mul(p, r), half, S::sub(half, S::set1(0.5f)));
    return S::add(y, y);
  }
  // From e^2x - 1, whose sign it has; beyond 9.1 it is 1.
  static F tanh(F x) {
    const F c = S::min(S::set1(9.1f), S::max(S::set1(-9.1f), x));
    const F u = expm1(S::add(c, c));
    return S::div(u, S::add(u, S::set1(2.0f)));
  }

  static F sigmoid(F x) { return S::div(S::set1(1.0f), S::add(S::set1(1.0f), exp(S::sub(S::zero(), x)))); }
  static F silu(F x) { return S::div(x, S::add(S::set1(1.0f), exp(S::sub(S::zero(), x)))); }

  // log(1 + u) for 0 <= u <= 1: 2 atanh(s), s = u / (2 + u) <= 1/3; the series to s^17 (error 1e-10).
  static F log1p(F u) {
    const F s = S::div(u, S::add(S::set1(2.0f), u));
    const F z = S::mul(s, s);
    F p = S::set1(2.0f / 17);
    for (int k : {15, 13, 11, 9, 7, 5, 3}) p = S::fma(p, z, S::set1(2.0f / float(k)));
    p = S::fma(p, z, S::set1(2.0f));
    return S::mul(p, s);
  }
  // max(x, 0) + log(1 + e^-|x|)
  static F softplus(F x) { return S::add(S::max(S::zero(), x), log1p(exp(S::sub(S::zero(), S::abs(x))))); }
  static F log_sigmoid(F x) { return S::sub(S::min(S::zero(), x), log1p(exp(S::sub(S::zero(), S::abs(x))))); }
};

}  // namespace retort
