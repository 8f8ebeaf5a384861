// Between float32 and the 16-bit floats, in one read and one write. floats.cuh comes before this file.

template <class From, class To, class Cast> __device__ inline void cast(const From* from, To* to, i64 n, Cast convert) {
    i64 begin = EACH * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
    if (begin + EACH <= n && whole_words(from) && whole_words(to)) {
        Four<From> four = *(const Four<From>*)(from + begin);
        Four<To> found;
        for (int j = 0; j < EACH; j++) found.of[j] = convert(four.of[j]);
        *(Four<To>*)(to + begin) = found;
    } else {
        for (i64 i = begin; i < n && i < begin + EACH; i++) to[i] = convert(from[i]);
    }
}

extern "C" __global__ void float16_from_float32(const float* from, u16* to, i64 n) { cast(from, to, n, half_bits); }

extern "C" __global__ void float32_from_float16(const u16* from, float* to, i64 n) { cast(from, to, n, half_value); }

extern "C" __global__ void bfloat16_from_float32(const float* from, u16* to, i64 n) { cast(from, to, n, bfloat16_bits); }

extern "C" __global__ void float32_from_bfloat16(const u16* from, float* to, i64 n) { cast(from, to, n, bfloat16_value); }
