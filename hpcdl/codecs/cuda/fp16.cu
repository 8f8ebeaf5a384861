// float16 with an exponent for each block: see fp16.py.

struct Format {
    typedef Neighbours Layout;

    // Chosen from the peak alone: 0 where the plain cast keeps the bound, else so that the scaled peak lies in [2^14, 2^15).
    __device__ static int exponent(u32 peak) {
        bool plain = (peak >= 0x39000000u && peak <= 0x47000000u) || peak == 0 || peak >= 0x7f800000u;  // 2^-13, 2^15
        int above = peak >> 23 ? (int)(peak >> 23) - 126 : 31 - __clz(peak) - 148;  // peak < 2^above
        return plain ? 0 : max(above - 15, -127);
    }

    __device__ static void encode(const float* v, Place at, u8* wire, Chance) {
        int e = exponent(peak_of(v));
        u16 halves[EACH];
        for (int j = 0; j < EACH; j++) halves[j] = half_bits(v[j] * power_of_two(-e));
        store_pairs(wire + 2 * BLOCK * at.block, at, halves);
        if (at.lane == 0) wire[2 * at.n + at.block] = (u8)(signed char)e;
    }

    __device__ static void decode(const u8* wire, Place at, float* v) {
        float power = power_of_two((signed char)wire[2 * at.n + at.block]);
        u16 halves[EACH];
        load_pairs(wire + 2 * BLOCK * at.block, at, halves);
        for (int j = 0; j < EACH; j++) v[j] = half_value(halves[j]) * power;
    }
};
