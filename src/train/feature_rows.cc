#include "train/feature_rows.h"

#include <cmath>

#include "base/clones.h"
#include "train/row_math.h"

namespace retort::train::rows {
namespace {

// y = z + b; returns the largest.
RETORT_INLINE float add_bias(const uint16_t* z, const float* b, float* y, int64_t n) {
  float top[kLanes];
  for (int i = 0; i < kLanes; ++i) top[i] = -3e38f;
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float value = widen(z[c + i]) + (b ? b[c + i] : 0.0f);
      y[c + i] = value;
      top[i] = top[i] > value ? top[i] : value;
    }
  }
  float most = -3e38f;
  for (int i = 0; i < kLanes; ++i) most = most > top[i] ? most : top[i];
  for (; c < n; ++c) {
    y[c] = widen(z[c]) + (b ? b[c] : 0.0f);
    most = most > y[c] ? most : y[c];
  }
  return most;
}

RETORT_INLINE float dot(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += a[c + i] * b[c + i];
  }
  float sum = lane_sum(lanes);
  for (; c < n; ++c) sum += a[c] * b[c];
  return sum;
}

}  // namespace

RETORT_CLONES void exp_forward(const uint16_t* z, const float* b, float* y, int64_t stride, float* maximum, int64_t maximum_stride,
                               int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, z += columns, y += stride) {
    const float most = add_bias(z, b, y, columns);
    maximum[r * maximum_stride] = most;
    for (int64_t c = 0; c < columns; ++c) y[c] = fast_exp(y[c] - most);
  }
}

RETORT_CLONES void softmax_forward(const uint16_t* z, const float* b, float* y, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, z += columns, y += stride) {
    const float most = add_bias(z, b, y, columns);
    float lanes[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        y[c + i] = fast_exp(y[c + i] - most);
        lanes[i] += y[c + i];
      }
    }
    float sum = lane_sum(lanes);
    for (; c < columns; ++c) sum += y[c] = fast_exp(y[c] - most);
    const float scale = 1.0f / sum;
    for (c = 0; c < columns; ++c) y[c] *= scale;
  }
}

RETORT_CLONES void exp_backward(const float* dy, const float* y, int64_t stride, uint16_t* dz, float* db, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, dy += stride, y += stride, dz += columns) {
    for (int64_t c = 0; c < columns; ++c) {
      const float value = dy[c] * y[c];
      db[c] += value;
      dz[c] = narrow(value);
    }
  }
}

RETORT_CLONES void softmax_backward(const float* dy, const float* y, int64_t stride, uint16_t* dz, float* db, int64_t rows,
                                    int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, dy += stride, y += stride, dz += columns) {
    const float sum = dot(dy, y, columns);
    for (int64_t c = 0; c < columns; ++c) {
      const float value = y[c] * (dy[c] - sum);
      db[c] += value;
      dz[c] = narrow(value);
    }
  }
}

RETORT_CLONES void square(const float* x, float* y, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; ++r, x += f) {
    for (int64_t i = 0; i < f; ++i) *y++ = x[i] * x[i];
    for (int64_t i = 0; i < f; ++i) {
      const float factor = float(M_SQRT2) * x[i];
      for (int64_t j = i + 1; j < f; ++j) *y++ = factor * x[j];
    }
  }
}

RETORT_CLONES void square_backward(const float* x, const float* dy, float* dx, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; ++r, x += f, dx += f) {
    for (int64_t i = 0; i < f; ++i) dx[i] = 2 * x[i] * *dy++;
    for (int64_t i = 0; i < f; dy += f - ++i) {
      const float factor = float(M_SQRT2) * x[i];
      float sum = 0;
      for (int64_t j = i + 1; j < f; ++j) {
        sum += dy[j - i - 1] * x[j];
        dx[j] += dy[j - i - 1] * factor;
      }
      dx[i] += float(M_SQRT2) * sum;
    }
  }
}

RETORT_CLONES void rms_norm(const float* x, const float* w, uint16_t* y, float* inverse, int64_t rows, int64_t columns, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += columns, y += columns) {
    float lanes[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) lanes[i] += x[c + i] * x[c + i];
    }
    float sum = lane_sum(lanes);
    for (; c < columns; ++c) sum += x[c] * x[c];
    const float scale = 1.0f / std::sqrt(sum / float(columns) + eps);
    if (inverse) inverse[r] = scale;
    for (c = 0; c < columns; ++c) y[c] = narrow(x[c] * scale * w[c]);
  }
}

RETORT_CLONES void rms_norm_backward(const float* x, const float* w, const float* inverse, const uint16_t* dy, float* dx,
                                     int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, x += columns, dy += columns, dx += columns) {
    float lanes[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) lanes[i] += widen(dy[c + i]) * w[c + i] * x[c + i];
    }
    float sum = lane_sum(lanes);
    for (; c < columns; ++c) sum += widen(dy[c]) * w[c] * x[c];
    const float scale = inverse[r], mean = sum * scale * scale / float(columns);
    for (c = 0; c < columns; ++c) dx[c] = scale * (widen(dy[c]) * w[c] - x[c] * mean);
  }
}

RETORT_CLONES void rms_norm_heads(const float* x, const float* w, int64_t w_stride, float* y, float* inverse, int64_t rows, int64_t heads,
                                  int64_t d, float eps) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads; ++h, x += d, y += d) {
      const float scale = 1.0f / std::sqrt(dot(x, x, d) / float(d) + eps);
      *inverse++ = scale;
      const float* own = w ? w + h * w_stride : nullptr;
      if (own) for (int64_t c = 0; c < d; ++c) y[c] = x[c] * scale * own[c];
      else for (int64_t c = 0; c < d; ++c) y[c] = x[c] * scale;
    }
  }
}

RETORT_CLONES void rms_norm_heads_backward(const float* x, const float* w, int64_t w_stride, const float* inverse, const float* dy, float* dx,
                                           float* dw, int64_t rows, int64_t heads, int64_t d) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads; ++h, x += d, dy += d, dx += d) {
      const float scale = *inverse++;
      const float* own = w ? w + h * w_stride : nullptr;
      if (own) for (int64_t c = 0; c < d; ++c) dx[c] = dy[c] * own[c];
      else for (int64_t c = 0; c < d; ++c) dx[c] = dy[c];
      const float mean = dot(dx, x, d) * scale * scale / float(d);
      for (int64_t c = 0; c < d; ++c) dx[c] = scale * (dx[c] - x[c] * mean);
      if (dw) for (int64_t c = 0; c < d; ++c) dw[h * w_stride + c] += dy[c] * x[c] * scale;
    }
  }
}

RETORT_CLONES void short_conv(const float* x, int64_t stride, const float* taps, const float* b, float* y, int64_t rows, int64_t channels,
                              int64_t count) {
  const float* last = taps + (count - 1) * channels;
  for (int64_t t = 0; t < rows; ++t, x += stride, y += channels) {
    for (int64_t c = 0; c < channels; ++c) y[c] = last[c] * x[c] + (b ? b[c] : 0.0f);
    for (int64_t back = 1; back < count && back <= t; ++back) {
      const float *tap = last - back * channels, *before = x - back * stride;
      for (int64_t c = 0; c < channels; ++c) y[c] += tap[c] * before[c];
    }
  }
}

RETORT_CLONES void short_conv_backward(const float* x, int64_t stride, const float* taps, const float* dy, float* dx, float* d_taps, float* db,
                                       int64_t rows, int64_t channels, int64_t count) {
  const float* last = taps + (count - 1) * channels;
  float* d_last = d_taps + (count - 1) * channels;
  for (int64_t t = 0; t < rows; ++t, x += stride, dy += channels, dx += channels) {
    for (int64_t c = 0; c < channels; ++c) dx[c] = last[c] * dy[c];
    for (int64_t later = 1; later < count && t + later < rows; ++later) {
      const float *tap = last - later * channels, *after = dy + later * channels;
      for (int64_t c = 0; c < channels; ++c) dx[c] += tap[c] * after[c];
    }
    for (int64_t back = 0; back < count && back <= t; ++back) {
      const float* before = x - back * stride;
      float* d_tap = d_last - back * channels;
      for (int64_t c = 0; c < channels; ++c) d_tap[c] += dy[c] * before[c];
    }
    if (db) for (int64_t c = 0; c < channels; ++c) db[c] += dy[c];
  }
}

RETORT_CLONES void swiglu(const uint16_t* gu, uint16_t* y, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, gu += 2 * columns, y += columns) {
    for (int64_t c = 0; c < columns; ++c) {
      const float g = widen(gu[c]);
      y[c] = narrow(g / (1.0f + fast_exp(-g)) * widen(gu[columns + c]));
    }
  }
}

RETORT_CLONES void swiglu_backward(const uint16_t* gu, const uint16_t* dy, uint16_t* dgu, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, gu += 2 * columns, dgu += 2 * columns, dy += columns) {
    for (int64_t c = 0; c < columns; ++c) {
      const float g = widen(gu[c]), u = widen(gu[columns + c]), d = widen(dy[c]);
      const float s = 1.0f / (1.0f + fast_exp(-g));
      dgu[c] = narrow(d * u * s * (1.0f + g * (1.0f - s)));
      dgu[columns + c] = narrow(d * g * s);
    }
  }
}

RETORT_CLONES void rope(const float* in, float* out, const float* cosine, const float* sine, int64_t rows, int64_t stride, int heads,
                        int half, float direction) {
  for (int64_t r = 0; r < rows; ++r, in += stride, out += stride, cosine += half, sine += half) {
    for (int h = 0; h < heads; ++h) {
      const float* x = in + h * 2 * half;
      float* y = out + h * 2 * half;
      for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half], s = sine[i] * direction;
        y[i] = a * cosine[i] - b * s;
        y[i + half] = b * cosine[i] + a * s;
      }
    }
  }
}

}  // namespace retort::train::rows
