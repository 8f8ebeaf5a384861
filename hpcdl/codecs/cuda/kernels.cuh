// The kernels of a codec of blocks: `Format` encodes and decodes one block of a warp. Each reads and writes its memory once.

constexpr int AT_ONCE = 2;  // blocks of a warp: enough loads under way to keep memory busy

template <class Work> __device__ inline void each_block(i64 n, Work work) {
    i64 warp = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    work(warp * AT_ONCE, (int)(threadIdx.x % LANES));
}

// Whether a lane's elements lie side by side, and may be read as one word.
__device__ inline bool in_one_word(const float* row, Place at) {
    return Format::Layout::element(0, 1) == 1 && at.width() == BLOCK && whole_words(row);
}

__device__ inline void load(const float* x, Place at, float* v) {
    const float* row = x + at.block * BLOCK;
    if (in_one_word(row, at)) {
        Four<float> four = ((const Four<float>*)row)[at.lane];
        for (int j = 0; j < EACH; j++) v[j] = four.of[j];
    } else {
        for (int j = 0; j < EACH; j++) {
            int i = Format::Layout::element(at.lane, j);
            v[j] = i < at.width() ? row[i] : 0.0f;
        }
    }
}

__device__ inline void store(float* x, Place at, const float* v) {
    float* row = x + at.block * BLOCK;
    if (in_one_word(row, at)) {
        ((Four<float>*)row)[at.lane] = Four<float>{{v[0], v[1], v[2], v[3]}};
    } else {
        for (int j = 0; j < EACH; j++) {
            int i = Format::Layout::element(at.lane, j);
            if (i < at.width()) row[i] = v[j];
        }
    }
}

// wire = encoded x.
extern "C" __global__ void encode(const float* x, u8* wire, i64 n, u64 stream, u64 first, int drawn) {
    each_block(n, [&](i64 block, int lane) {
        float v[AT_ONCE][EACH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) load(x, Place{block + k, n, lane}, v[k]);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) Format::encode(v[k], Place{block + k, n, lane}, wire, Chance{stream, first, drawn});
    });
}

// wire = encoded (x + residual) * scale; residual = what the wire lost of it. With `settle`, x takes what the wire says.
// residual may be null; scaled = 0 leaves the scale out.
extern "C" __global__ void encode_with_feedback(float* x, float* residual, float scale, int scaled, int settle, u8* wire, i64 n,
                                                u64 stream, u64 first, int drawn) {
    each_block(n, [&](i64 block, int lane) {
        float sums[AT_ONCE][EACH], lost[AT_ONCE][EACH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) {
                Place at{block + k, n, lane};
                load(x, at, sums[k]);
                if (residual) load(residual, at, lost[k]);
            }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) {
                Place at{block + k, n, lane};
                float v[EACH];
                for (int j = 0; j < EACH; j++) {
                    if (residual) sums[k][j] = sums[k][j] + lost[k][j];
                    v[j] = scaled ? sums[k][j] * scale : sums[k][j];
                }
                Format::encode(v, at, wire, Chance{stream, first, drawn});
                __syncwarp();
                Format::decode(wire, at, v);  // what this warp has just written
                if (settle) store(x, at, v);
                if (residual) {
                    for (int j = 0; j < EACH; j++) {
                        float went_out = scaled && scale != 0.0f ? v[j] / scale : v[j];  // zero where no rank had any weight
                        float left = sums[k][j] - went_out;
                        lost[k][j] = finite(left) ? left : 0.0f;  // one bad gradient must not come back in every later step
                    }
                    store(residual, at, lost[k]);
                }
            }
    });
}

// out = decoded wire (how = 0), out += it (1), out -= it (-1).
extern "C" __global__ void decode(const u8* wire, float* out, i64 n, int how) {
    each_block(n, [&](i64 block, int lane) {
        float v[AT_ONCE][EACH], old[AT_ONCE][EACH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) {
                Format::decode(wire, Place{block + k, n, lane}, v[k]);
                if (how) load(out, Place{block + k, n, lane}, old[k]);
            }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (block + k < blocks_of(n)) {
                for (int j = 0; j < EACH; j++)
                    if (how) v[k][j] = how > 0 ? old[k][j] + v[k][j] : old[k][j] - v[k][j];
                store(out, Place{block + k, n, lane}, v[k]);
            }
    });
}
