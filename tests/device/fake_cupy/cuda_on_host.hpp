// CUDA C++ on a processor: the same kernel source, each thread of a block a fiber. Blocks run one after the other.
//
// A fiber runs until it meets a barrier or an exchange with its warp, and goes on when all that take part have come: so a barrier that some
// threads never reach, or lanes that exchange in different places, end with an error. Memory is the machine's own.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct Index { unsigned x, y, z; };

namespace on_host {
enum State { READY, AT_BARRIER, IN_WARP, ENDED };
struct Fiber {
    ucontext_t begin;
    jmp_buf here;
    std::vector<char> stack;
    State state;
    bool begun;
    int place;          // which kind of exchange
    uint64_t offered;   // to the others of the warp
    uint64_t taken[32]; // from them
};
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static unsigned current;
static const std::function<void()>* kernel;

static void enter() {
    (*kernel)();
    fibers[current].state = ENDED;
    _longjmp(scheduler, 1);
}
static void give_way(State state) {
    Fiber& mine = fibers[current];
    mine.state = state;
    if (!_setjmp(mine.here)) _longjmp(scheduler, 1);
}
static void resume(unsigned number) {
    current = number;
    Fiber& next = fibers[number];
    next.state = READY;
    if (_setjmp(scheduler)) return;
    if (next.begun) _longjmp(next.here, 1);
    next.begun = true;
    setcontext(&next.begin);
}
// What each lane of the warp offers, once all have come.
static const uint64_t* exchange(int place, uint64_t mine) {
    fibers[current].place = place;
    fibers[current].offered = mine;
    give_way(IN_WARP);
    return fibers[current].taken;
}
static const char* wrong = nullptr;

// Let the warp go on if all of its lanes wait in the same exchange.
static bool meet(unsigned warp) {
    for (unsigned t = warp; t < warp + 32; t++) {
        if (fibers[t].state != IN_WARP) return false;
        if (fibers[t].place != fibers[warp].place) wrong = "lanes of a warp exchange in different places";
    }
    for (unsigned t = warp; t < warp + 32; t++) {
        for (unsigned lane = 0; lane < 32; lane++) fibers[t].taken[lane] = fibers[warp + lane].offered;
        fibers[t].state = READY;
    }
    return true;
}
}  // namespace on_host

static Index threadIdx, blockIdx, blockDim, gridDim;

namespace on_host {
// Run every thread until it waits or ends. Who comes first changes from time to time, so that a missing barrier is noticed.
static bool advance(unsigned threads) {
    static unsigned round = 0;
    round = round * 1664525u + 1013904223u;
    unsigned turn = round >> 16;
    bool moved = false;
    for (unsigned w = 0; w < threads; w += 32) {
        unsigned warp = turn & 1 ? threads - 32 - w : w;
        do {
            for (unsigned l = 0; l < 32; l++) {
                unsigned t = warp + (turn & 2 ? 31 - l : l);
                if (fibers[t].state != READY) continue;
                threadIdx = {t, 0, 0};
                resume(t);
                moved = true;
            }
        } while (!wrong && meet(warp));
    }
    unsigned ended = 0, waiting = 0;
    for (unsigned t = 0; t < threads; t++) ended += fibers[t].state == ENDED, waiting += fibers[t].state == AT_BARRIER;
    if (ended == threads) return false;
    if (waiting == threads) {
        for (unsigned t = 0; t < threads; t++) fibers[t].state = READY;
    } else if (!moved) {
        wrong = ended + waiting == threads ? "some threads of a block have ended before a barrier of the others"
                                           : "lanes of a warp have ended, or are at a barrier, while others exchange";
    }
    return true;
}
static const char* run(unsigned grid, unsigned threads, const std::function<void()>& body) {
    if (threads % 32) return "the double runs whole warps only";
    kernel = &body;
    wrong = nullptr;
    fibers.resize(max((size_t)threads, fibers.size()));
    gridDim = {grid, 1, 1}, blockDim = {threads, 1, 1};
    for (unsigned block = 0; block < grid && !wrong; block++) {
        blockIdx = {block, 0, 0};
        for (unsigned t = 0; t < threads; t++) {
            Fiber& fiber = fibers[t];
            fiber.stack.resize(1 << 15);
            getcontext(&fiber.begin);
            fiber.begin.uc_stack.ss_sp = fiber.stack.data();
            fiber.begin.uc_stack.ss_size = fiber.stack.size();
            fiber.begin.uc_link = nullptr;
            makecontext(&fiber.begin, enter, 0);
            fiber.begun = false, fiber.state = READY;
        }
        while (!wrong && advance(threads)) {
        }
    }
    return wrong;
}
template <class T> static uint64_t packed(T value) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> static T unpacked(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static void full(unsigned mask) {
    if (mask != 0xffffffffu) wrong = "the double knows exchanges of all lanes only";
}
}  // namespace on_host

static void __syncthreads() { on_host::give_way(on_host::AT_BARRIER); }
static void __syncwarp(unsigned mask = 0xffffffffu) { on_host::full(mask), on_host::exchange(1, 0); }
template <class T> static T __shfl_sync(unsigned mask, T value, int lane) {
    on_host::full(mask);
    return on_host::unpacked<T>(on_host::exchange(2, on_host::packed(value))[lane & 31]);
}
template <class T> static T __shfl_xor_sync(unsigned mask, T value, int apart) {
    int lane = threadIdx.x & 31;
    on_host::full(mask);
    return on_host::unpacked<T>(on_host::exchange(3, on_host::packed(value))[lane ^ apart]);
}
template <class T> static T __shfl_up_sync(unsigned mask, T value, int apart) {
    int lane = threadIdx.x & 31;
    on_host::full(mask);
    return on_host::unpacked<T>(on_host::exchange(4, on_host::packed(value))[lane < apart ? lane : lane - apart]);
}
static unsigned __ballot_sync(unsigned mask, int predicate) {
    on_host::full(mask);
    const uint64_t* all = on_host::exchange(5, predicate != 0);
    unsigned found = 0;
    for (int lane = 0; lane < 32; lane++) found |= (unsigned)all[lane] << lane;
    return found;
}
template <class T> static T atomicAdd(T* there, T value) {
    T before = *there;
    *there += value;
    return before;
}
static unsigned __float_as_uint(float x) { return on_host::unpacked<unsigned>(on_host::packed(x)); }
static float __uint_as_float(unsigned x) { return on_host::unpacked<float>(on_host::packed(x)); }
static int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
