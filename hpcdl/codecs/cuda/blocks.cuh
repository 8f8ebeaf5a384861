// What every codec of blocks has in common. A warp takes a block of 128 elements at a time, four to a lane.
// floats.cuh comes before this file, a codec's own file, which defines `Format`, after it, and then kernels.cuh, which makes it into kernels.

constexpr int BLOCK = 128, LANES = 32;
constexpr u32 ALL = 0xffffffffu;

struct Chance {  // where random bits come from, for codecs that draw some: a stream, and the number of the first element in it
    u64 stream, first;
    int drawn;
};

struct Place {  // of a lane in a block
    i64 block, n;
    int lane;

    // Elements that the block has: fewer than 128 in the last one.
    __device__ int width() const { return n - block * BLOCK < BLOCK ? (int)(n - block * BLOCK) : BLOCK; }
};

__device__ inline i64 blocks_of(i64 n) { return (n + BLOCK - 1) / BLOCK; }

// The largest magnitude of a block, as bits, on all lanes.
__device__ inline u32 peak_of(const float* v) {
    u32 peak = 0;
    for (int j = 0; j < EACH; j++) peak = max(peak, magnitude(v[j]));
    for (int apart = LANES / 2; apart; apart /= 2) peak = max(peak, __shfl_xor_sync(ALL, peak, apart));
    return peak;
}

// A block's scale as the wire holds it; one and the same NaN in a block that holds NaN or infinity.
__device__ inline u32 scale_bits(float scale, bool good) { return good ? bits_of(scale) : 0x7fc00000u; }

// 2^e exactly, for e from -149 to 127.
__device__ inline float power_of_two(int e) { return value_of(e >= -126 ? (u32)(e + 127) << 23 : 1u << (e + 149)); }

// Two 16-bit numbers of each lane's four, side by side: one word, where the block is whole, or as many as there are.
__device__ inline void store_pairs(u8* row, Place at, const u16* v) {
    if (at.width() == BLOCK) {
        u32* words = (u32*)row + 2 * at.lane;
        words[0] = v[0] | (u32)v[1] << 16;
        words[1] = v[2] | (u32)v[3] << 16;
    } else {
        for (int j = 0; j < EACH; j++)
            if (EACH * at.lane + j < at.width()) ((u16*)row)[EACH * at.lane + j] = v[j];
    }
}
__device__ inline void load_pairs(const u8* row, Place at, u16* v) {
    if (at.width() == BLOCK) {
        const u32* words = (const u32*)row + 2 * at.lane;
        u32 low = words[0], high = words[1];
        v[0] = (u16)low, v[1] = (u16)(low >> 16), v[2] = (u16)high, v[3] = (u16)(high >> 16);
    } else {
        for (int j = 0; j < EACH; j++) v[j] = EACH * at.lane + j < at.width() ? ((const u16*)row)[EACH * at.lane + j] : (u16)0;
    }
}

// How lanes share a block: `Neighbours`, four elements side by side each; `Apart`, every 32nd element.
struct Neighbours {
    __device__ static int element(int lane, int j) { return EACH * lane + j; }
};
struct Apart {
    __device__ static int element(int lane, int j) { return lane + LANES * j; }
};
