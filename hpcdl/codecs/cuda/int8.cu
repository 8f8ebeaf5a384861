// int8 with a float32 scale for each block, rounded to nearest or by chance: see int8.py, int8_stochastic.py and noise.py.

struct Format {
    typedef Neighbours Layout;

    __device__ static u32 mixed(u32 x) {  // the finalizer of MurmurHash3
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        return x ^ x >> 16;
    }

    // An odd multiple of 2^-17 in (0, 1); one counter does for two elements.
    __device__ static float uniform(Chance chance, i64 i) {
        u64 counter = (chance.first + (u64)i) / 2;
        u32 word = mixed(mixed((u32)(chance.stream + counter)) + (u32)(chance.stream >> 32));
        return ((float)(i % 2 ? word >> 16 : word & 0xffffu) + 0.5f) * 0.0000152587890625f;
    }

    __device__ static void encode(const float* v, Place at, u8* wire, Chance chance) {
        u32 peak = peak_of(v);
        bool good = peak < 0x7f800000u, nan = peak > 0x7f800000u;
        float scale = fminf(fmaxf(value_of(peak) / 127.0f, value_of(0x00800000u)), value_of(0x7c010000u));  // 2^-126, 2^121 (1 + 1/128)
        u32 word = 0;
        for (int j = 0; j < EACH; j++) {
            float quotient = v[j] / scale;
            if (chance.drawn) {
                float below = floorf(quotient);
                quotient = below + (uniform(chance, at.block * BLOCK + Layout::element(at.lane, j)) < quotient - below ? 1.0f : 0.0f);
            }
            int q = nan ? 0 : (int)fminf(fmaxf(rintf(quotient), -128.0f), 127.0f);
            word |= (u32)(u8)(signed char)q << 8 * j;
        }
        if (at.lane == 0) ((u32*)wire)[at.block] = scale_bits(scale, good);
        u8* row = wire + 4 * blocks_of(at.n) + BLOCK * at.block;
        if (at.width() == BLOCK) {
            ((u32*)row)[at.lane] = word;
        } else {
            for (int j = 0; j < EACH; j++)
                if (EACH * at.lane + j < at.width()) row[EACH * at.lane + j] = (u8)(word >> 8 * j);
        }
    }

    __device__ static void decode(const u8* wire, Place at, float* v) {
        float scale = ((const float*)wire)[at.block];
        const u8* row = wire + 4 * blocks_of(at.n) + BLOCK * at.block;
        u32 word = 0;
        if (at.width() == BLOCK) {
            word = ((const u32*)row)[at.lane];
        } else {
            for (int j = 0; j < EACH; j++)
                if (EACH * at.lane + j < at.width()) word |= (u32)row[EACH * at.lane + j] << 8 * j;
        }
        for (int j = 0; j < EACH; j++) v[j] = (float)(signed char)(word >> 8 * j) * scale;
    }
};
