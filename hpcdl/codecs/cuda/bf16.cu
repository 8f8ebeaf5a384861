// bfloat16: see bf16.py.

struct Format {
    typedef Neighbours Layout;

    __device__ static void encode(const float* v, Place at, u8* wire, Chance) {
        u16 upper[EACH];
        for (int j = 0; j < EACH; j++) upper[j] = bfloat16_bits(v[j]);
        store_pairs(wire + 2 * BLOCK * at.block, at, upper);
    }

    __device__ static void decode(const u8* wire, Place at, float* v) {
        u16 upper[EACH];
        load_pairs(wire + 2 * BLOCK * at.block, at, upper);
        for (int j = 0; j < EACH; j++) v[j] = bfloat16_value(upper[j]);
    }
};
