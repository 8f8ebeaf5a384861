// The k largest magnitudes, in the order of their places: see topk.py. Nothing here waits for the host.
//
// The k-th largest magnitude is found by its bits, from the highest: 11, then 10, then 10 of them, by counting how often each value of those
// bits occurs among the elements that agree in the bits before (radix select: Alabi et al. 2012, sec. 3.3). Then tiles of elements are
// counted, and written to where they belong. Five reads of memory; few elements take one block of threads, and no second kernel.

constexpr u32 ALL = 0xffffffffu;
constexpr int LANES = 32, BINS = 2048, TILE = 4096, MOST_WARPS = 32;

struct Search {  // how far the k-th largest is known
    u32 found;   // its highest bits
    u32 wanted;  // how many of the elements that begin with these bits are among the k
};

__device__ inline int shift_of(int level) { return level == 0 ? 20 : level == 1 ? 10 : 0; }
__device__ inline int bins_of(int level) { return level == 0 ? 2048 : 1024; }

// Sum of the values of all threads before this one; `total` takes the sum of all.
__device__ u64 sum_before(u64 value, u64* total) {
    __shared__ u64 of_warps[MOST_WARPS];
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, warps = blockDim.x / LANES;
    u64 sum = value;
    for (int apart = 1; apart < LANES; apart *= 2) {
        u64 other = __shfl_up_sync(ALL, sum, apart);
        if (lane >= apart) sum += other;
    }
    if (lane == LANES - 1) of_warps[warp] = sum;
    __syncthreads();
    u64 before = 0, all = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) before += of_warps[w];
        all += of_warps[w];
    }
    __syncthreads();  // before the next call writes there
    *total = all;
    return before + sum - value;
}

__device__ void clear(u32* bins) {
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
}

// Count, in shared `bins`, the elements from `begin` on, every `step`-th, that agree with what is found.
__device__ void tally(const float* x, i64 begin, i64 step, i64 n, int level, u32 found, u32* bins) {
    for (i64 i = begin; i < n; i += step) {
        u32 size = magnitude(x[i]) >> shift_of(level);
        if (level == 0 || size / bins_of(level) == found) atomicAdd(&bins[size % bins_of(level)], 1u);
    }
    __syncthreads();
}

// Find out the next bits from the counts. By one block of threads; `search` in shared or global memory.
__device__ void narrow(const u32* bins, int level, Search* search) {
    u32 found = level ? search->found : 0, wanted = search->wanted;
    u64 larger = 0;
    for (int from = 0; from < bins_of(level); from += blockDim.x) {  // the largest first
        int bin = bins_of(level) - 1 - (from + (int)threadIdx.x);
        u64 count = bin >= 0 ? bins[bin] : 0, total;
        u64 before = larger + sum_before(count, &total);
        if (before < wanted && wanted <= before + count) *search = Search{found * bins_of(level) + bin, wanted - (u32)before};
        larger += total;
    }
    __syncthreads();
}

// A one in the upper half for an element above the k-th largest, in the lower half for one that equals it.
__device__ inline u64 verdict(float x, u32 kth) {
    u32 size = magnitude(x);
    return (u64)(size > kth) << 32 | (u64)(size == kth);
}

// Write places and values of x[begin:end], in order. passed: how many above, and how many equal, were met before.
__device__ void pick(const float* x, i64 begin, i64 end, u64 passed, Search search, u32* places, float* values) {
    for (i64 from = begin; from < end; from += blockDim.x) {
        i64 i = from + threadIdx.x;
        float value = i < end ? x[i] : 0.0f;
        u64 mine = i < end ? verdict(value, search.found) : 0, total;
        u64 before = passed + sum_before(mine, &total);
        u32 above = (u32)(before >> 32), tied = (u32)before;
        if (mine >> 32 || (mine && tied < search.wanted)) {
            u32 position = above + min(tied, search.wanted);
            places[position] = (u32)i;
            values[position] = value;
        }
        passed += total;
    }
}

// All of it for few elements, by one block of threads.
extern "C" __global__ void select_few(const float* x, i64 n, u32 k, u32* places, float* values) {
    __shared__ u32 bins[BINS];
    __shared__ Search search;
    if (threadIdx.x == 0) search = Search{0, k};
    for (int level = 0; level < 3; level++) {
        clear(bins);
        tally(x, threadIdx.x, blockDim.x, n, level, search.found, bins);
        narrow(bins, level, &search);
    }
    pick(x, 0, n, 0, search, places, values);
}

extern "C" __global__ void begin(Search* search, u32* bins, u32 k) {
    if (threadIdx.x == 0) *search = Search{0, k};
    clear(bins);
}

extern "C" __global__ void count_bits(const float* x, i64 n, int level, const Search* search, u32* bins) {
    __shared__ u32 mine[BINS];
    clear(mine);
    tally(x, (i64)blockIdx.x * blockDim.x + threadIdx.x, (i64)gridDim.x * blockDim.x, n, level, search->found, mine);
    for (int i = threadIdx.x; i < bins_of(level); i += blockDim.x)
        if (mine[i]) atomicAdd(&bins[i], mine[i]);
}

extern "C" __global__ void find_bits(int level, Search* search, u32* bins) {
    narrow(bins, level, search);
    clear(bins);
}

extern "C" __global__ void count_tiles(const float* x, i64 n, const Search* search, u64* tiles) {
    i64 start = (i64)blockIdx.x * TILE, end = start + TILE < n ? start + TILE : n;
    u64 mine = 0, total;
    for (i64 i = start + threadIdx.x; i < end; i += blockDim.x) mine += verdict(x[i], search->found);
    sum_before(mine, &total);
    if (threadIdx.x == 0) tiles[blockIdx.x] = total;
}

// Each tile's number becomes the sum of those before it.
extern "C" __global__ void add_up_tiles(u64* tiles, i64 count) {
    u64 passed = 0;
    for (i64 from = 0; from < count; from += blockDim.x) {
        i64 i = from + threadIdx.x;
        u64 mine = i < count ? tiles[i] : 0, total;
        u64 before = passed + sum_before(mine, &total);
        if (i < count) tiles[i] = before;
        passed += total;
    }
}

extern "C" __global__ void pick_tiles(const float* x, i64 n, const Search* search, const u64* tiles, u32* places, float* values) {
    i64 start = (i64)blockIdx.x * TILE, end = start + TILE < n ? start + TILE : n;
    pick(x, start, end, tiles[blockIdx.x], *search, places, values);
}

// out[place] = value (how = 0), += (1) or -= (-1). What lies outside of `out` can only come from a broken wire.
extern "C" __global__ void scatter(const u32* places, const float* values, u32 k, float* out, i64 n, int how) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < k && places[i] < n) {
        float* there = out + places[i];
        *there = how == 0 ? values[i] : how > 0 ? *there + values[i] : *there - values[i];
    }
}
