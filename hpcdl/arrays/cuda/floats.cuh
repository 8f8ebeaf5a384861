// Numbers and their bits: what all kernels here begin with. Needs no header, so that a compiler without the CUDA toolkit takes it.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

constexpr int EACH = 4;  // elements of a thread, side by side
template <class T> struct alignas(EACH * sizeof(T)) Four {  // is read and written at once
    T of[EACH];
};
template <class T> __device__ inline bool whole_words(const T* x) { return (u64)x % sizeof(Four<T>) == 0; }

__device__ inline u32 bits_of(float x) { return __float_as_uint(x); }
__device__ inline float value_of(u32 bits) { return __uint_as_float(bits); }
__device__ inline u32 magnitude(float x) { return bits_of(x) & 0x7fffffffu; }  // as integers they order as floats do, NaN above all
__device__ inline bool finite(float x) { return magnitude(x) < 0x7f800000u; }

// float16, to nearest, ties to even; any NaN becomes 0x7e00.
#ifdef __CUDA_ARCH__
__device__ inline u16 half_rounded(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline float half_value(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#else  // on a processor, where tests run the same kernels
inline u16 half_rounded(float x) {
    _Float16 half = x;
    return *(u16*)&half;
}
inline float half_value(u16 bits) { return *(_Float16*)&bits; }
#endif
__device__ inline u16 half_bits(float x) { return magnitude(x) > 0x7f800000u ? (u16)0x7e00 : half_rounded(x); }

// bfloat16, to nearest, ties to even; NaN keeps its sign. Not the device's own cast, whose NaN is 0x7fff.
__device__ inline u16 bfloat16_bits(float x) {
    u32 bits = bits_of(x);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return nan ? (u16)(bits >> 16 & 0x8000u | 0x7fc0u) : (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
__device__ inline float bfloat16_value(u16 bits) { return value_of((u32)bits << 16); }
