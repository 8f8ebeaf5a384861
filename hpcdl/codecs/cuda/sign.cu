// One bit for each element, and the mean magnitude of each block: see sign.py.

struct Format {
    typedef Apart Layout;

    // The mean magnitude, on lane 0: summed by halves in float64, so that every machine and device gets the same.
    __device__ static float mean(const float* v, int width) {
        double s[EACH];
        for (int j = 0; j < EACH; j++) s[j] = value_of(magnitude(v[j]));
        if (width == BLOCK) {
            double sum = (s[0] + s[2]) + (s[1] + s[3]);
            for (int half = LANES / 2; half; half /= 2) sum += __shfl_xor_sync(ALL, sum, half);
            return (float)(sum / BLOCK);
        }
        for (int left = width, half; left > 1; left = half) {
            half = (left + 1) / 2;
            halve(s, left, half);
        }
        return (float)(s[0] / width);
    }

    // Element i + half is added to element i, for i < left - half. For the last block of an array, which may be a short one.
    __device__ static void halve(double* s, int left, int half) {
        double moved[EACH];
        int lane = threadIdx.x % LANES;
        for (int j = 0; j < EACH; j++) {  // moved[j] on a lane: element lane + 32 j + half
            int from = lane + half % LANES;
            double near = __shfl_sync(ALL, s[(j + half / LANES) % EACH], from % LANES);
            double far = __shfl_sync(ALL, s[(j + half / LANES + 1) % EACH], from % LANES);
            moved[j] = from < LANES ? near : far;
        }
        for (int j = 0; j < EACH; j++)
            if (Layout::element(lane, j) < left - half) s[j] += moved[j];
    }

    __device__ static void encode(const float* v, Place at, u8* wire, Chance) {
        float scale = mean(v, at.width());
        u32* words = (u32*)(wire + 4 * blocks_of(at.n)) + EACH * at.block;
        for (int j = 0; j < EACH; j++) {
            u32 word = __ballot_sync(ALL, (int)(bits_of(v[j]) >> 31));
            if (at.lane == 0 && LANES * j < at.width()) words[j] = word;
        }
        if (at.lane == 0) ((u32*)wire)[at.block] = scale_bits(scale, finite(scale));
    }

    __device__ static void decode(const u8* wire, Place at, float* v) {
        float scale = ((const float*)wire)[at.block];
        const u32* words = (const u32*)(wire + 4 * blocks_of(at.n)) + EACH * at.block;
        for (int j = 0; j < EACH; j++) {
            u32 word = LANES * j < at.width() ? words[j] : 0;
            v[j] = (word >> at.lane & 1u ? -1.0f : 1.0f) * scale;
        }
    }
};
