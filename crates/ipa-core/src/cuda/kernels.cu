// Kernels for features in half precision with channels last, compiled for the card at hand when the first is called.
//
// Where a kernel does two of libtorch's operations at once, the number between them is not rounded.

typedef unsigned short u16;
typedef unsigned int u32;

#if HALF
__device__ float wide(u16 narrow) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(narrow));
  return wide;
}

__device__ u16 narrow(float wide) {
  u16 narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(wide));
  return narrow;
}
#else
__device__ float wide(u16 narrow) { return __uint_as_float((u32)narrow << 16); }

// To the nearest, to even in the middle.
__device__ u16 narrow(float wide) {
  const u32 bits = __float_as_uint(wide);
  return wide != wide ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
#endif

// What a thread reads and writes at once.
struct alignas(16) Eight {
  u16 numbers[8];
};

__device__ double warp_sum(double number) {
  for (int offset = 16; offset > 0; offset /= 2) {
    number += __shfl_down_sync(0xffffffff, number, offset);
  }
  return number;
}

// Sums of numbers and of squares by picture, chunk of positions and group, `[batch, chunks, groups, 2]`.
//
// `features` is `[batch, positions, channels]`. Grid: chunks, batch. Block: eighths of the channels, rows of positions.
extern "C" __global__ void group_sums(const Eight* features, double* sums, int positions, int chunk, int groups) {
  extern __shared__ float found[];  // [2, rows, channels]
  const int eighths = blockDim.x, rows = blockDim.y, channels = 8 * eighths;
  const Eight* picture = features + (size_t)blockIdx.y * positions * eighths;
  float sum[8] = {}, square[8] = {};
  const int end = min(positions, (int)(blockIdx.x + 1) * chunk);
  for (int position = blockIdx.x * chunk + threadIdx.y; position < end; position += rows) {
    const Eight eight = picture[(size_t)position * eighths + threadIdx.x];
    for (int i = 0; i < 8; ++i) {
      const float number = wide(eight.numbers[i]);
      sum[i] += number;
      square[i] += number * number;
    }
  }
  for (int i = 0; i < 8; ++i) {
    found[threadIdx.y * channels + 8 * threadIdx.x + i] = sum[i];
    found[(rows + threadIdx.y) * channels + 8 * threadIdx.x + i] = square[i];
  }
  __syncthreads();
  const int thread = threadIdx.y * eighths + threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warps = eighths * rows / 32, share = channels / groups;
  if (warp >= warps) {
    return;  // not a whole one
  }
  for (int group = warp; group < groups; group += warps) {
    double group_sum = 0, group_square = 0;
    for (int index = lane; index < rows * share; index += 32) {
      const int place = index / share * channels + group * share + index % share;
      group_sum += found[place];
      group_square += found[rows * channels + place];
    }
    group_sum = warp_sum(group_sum);
    group_square = warp_sum(group_square);
    if (lane == 0) {
      double* to = sums + 2 * (((size_t)blockIdx.y * gridDim.x + blockIdx.x) * groups + group);
      to[0] = group_sum;
      to[1] = group_square;
    }
  }
}

// What `group_sums` found, put to use: normalised, scaled, shifted, and if asked for through SiLU. Grid and block as there,
// with chunks of its own.
extern "C" __global__ void group_normed(const Eight* features, Eight* to, const double* sums, const u16* weight,
                                        const u16* bias, int positions, int chunk, int groups, int chunks, float eps,
                                        int is_silu) {
  extern __shared__ float moments[];  // [2, groups]
  const int eighths = blockDim.x, rows = blockDim.y, share = 8 * eighths / groups;
  const int thread = threadIdx.y * eighths + threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warps = eighths * rows / 32;
  for (int group = warp; group < groups && warp < warps; group += warps) {
    double sum = 0, square = 0;
    for (int index = lane; index < chunks; index += 32) {
      const double* from = sums + 2 * (((size_t)blockIdx.y * chunks + index) * groups + group);
      sum += from[0];
      square += from[1];
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (lane == 0) {
      const double count = (double)positions * share, mean = sum / count;
      moments[group] = mean;
      moments[groups + group] = 1 / sqrt(max(square / count - mean * mean, 0.0) + eps);
    }
  }
  __syncthreads();
  float scale[8], shift[8];
  for (int i = 0; i < 8; ++i) {
    const int channel = 8 * threadIdx.x + i, group = channel / share;
    scale[i] = wide(weight[channel]) * moments[groups + group];
    shift[i] = wide(bias[channel]) - moments[group] * scale[i];
  }
  const size_t picture = (size_t)blockIdx.y * positions;
  const int end = min(positions, (int)(blockIdx.x + 1) * chunk);
  for (int position = blockIdx.x * chunk + threadIdx.y; position < end; position += rows) {
    const size_t place = (picture + position) * eighths + threadIdx.x;
    Eight eight = features[place];
    for (int i = 0; i < 8; ++i) {
      float number = wide(eight.numbers[i]) * scale[i] + shift[i];
      number = is_silu ? number / (1 + expf(-number)) : number;
      eight.numbers[i] = narrow(number);
    }
    to[place] = eight;
  }
}

// `value · gelu(gate)` of rows `[value; gate]`, each of so many eighths; `count` eighths in all.
extern "C" __global__ void geglu(const Eight* projected, Eight* to, int eighths, long count) {
  const long index = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) {
    return;
  }
  const Eight* row = projected + index / eighths * 2 * eighths + index % eighths;
  Eight value = row[0];
  const Eight gate = row[eighths];
  for (int i = 0; i < 8; ++i) {
    const float number = wide(gate.numbers[i]);
    const float gelu = 0.5f * number * (1 + erff(number * 0.70710678f));
    value.numbers[i] = narrow(wide(value.numbers[i]) * gelu);
  }
  to[index] = value;
}
