// Rows times the rows of a weight, read once from memory, whatever the number of rows.
//
// Every sum runs over a weight's row in the same steps, in one accumulator: results do not depend on how many rows are
// multiplied at once, nor on who multiplies them.
#pragma once

#include <omp.h>

#include "vectors.h"

struct Matrix {
    const void* weight;  // (out, in)
    const void* bias;    // (out,) or null
    int64_t out;
};

const int PANEL = 16;  // rows of a weight that are multiplied with all rows, while they are near
const int AT_ONCE = 64;  // rows whose products are kept near until somebody takes them
#if LANES == 16
const int MOST_ROWS = 6;  // accumulators for four rows of a weight, and what they are made of, in 32 registers
#else
const int MOST_ROWS = 2;
#endif

// Sums of W rows of a weight with R rows; made once for all that is done with them. FRESH: the weight comes from
// memory, and the next W rows are asked for meanwhile, into the second-level cache: a third faster than without, and than
// into the first.
template <int W, int R, bool FRESH, class T>
__attribute__((noinline)) void products(
    const T* weight, const T* rows, long in, float (&sums)[R][W]) {
    typedef Step<T> step;
    Floats totals[R][W] = {};
    long at = 0;
    for (; at + step::WIDTH <= in; at += step::WIDTH) {
        typename step::Numbers weights[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; w++) {
            weights[w] = step::read(weight + w * in + at);
            if (FRESH) __builtin_prefetch(weight + (w + W) * in + at, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            typename step::Numbers row = step::read(rows + r * in + at);
#pragma GCC unroll 8
            for (int w = 0; w < W; w++) totals[r][w] = step::add(totals[r][w], weights[w], row);
        }
    }
    if (at < in)
        for (int r = 0; r < R; r++)
            for (int w = 0; w < W; w++)
                totals[r][w] = step::add(totals[r][w], read_some(weight + w * in + at, in - at),
                                         read_some(rows + r * in + at, in - at));
    for (int r = 0; r < R; r++) sum_each<W>(totals[r], sums[r]);
}

// Sums of R rows with `count` rows of a weight: (R, PANEL), of which `count` columns are filled.
template <int W, int R, bool FRESH, class T>
inline void tiles(const T* weight, long count, const T* rows, long in, float (*sums)[PANEL]) {
    long done = 0;
    for (; done + W <= count; done += W) {
        float tile[R][W];
        products<W, R, FRESH>(weight + done * in, rows, in, tile);
        for (int r = 0; r < R; r++) memcpy(sums[r] + done, tile[r], sizeof tile[r]);
    }
    for (; done < count; done++) {
        float tile[R][1];
        products<1, R, FRESH>(weight + done * in, rows, in, tile);
        for (int r = 0; r < R; r++) sums[r][done] = tile[r][0];
    }
}

// The same for fewer rows than fill the registers, 0 among them.
template <bool FRESH, class T>
inline void few(const T* weight, long count, const T* rows, long many, long in, float (*sums)[PANEL]) {
    switch (many) {
#if LANES == 16
        case 5: return tiles<4, 5, FRESH>(weight, count, rows, in, sums);
        case 4: return tiles<4, 4, FRESH>(weight, count, rows, in, sums);
        case 3: return tiles<4, 3, FRESH>(weight, count, rows, in, sums);
        case 2: return tiles<4, 2, FRESH>(weight, count, rows, in, sums);
#endif
        case 1: return tiles<4, 1, FRESH>(weight, count, rows, in, sums);
    }
}

// Products of up to AT_ONCE rows with up to PANEL rows of a weight from `first` on, biases added.
template <class T>
__attribute__((noinline)) void panel(
    const Matrix& matrix, long first, long count, const T* rows, long many, long in, float (*sums)[PANEL]) {
    const T* weight = (const T*)matrix.weight + first * in;
    long row = 0;
    if (many == 1) {
        tiles<8, 1, true>(weight, count, rows, in, sums);
    } else if (many < MOST_ROWS) {
        few<true>(weight, count, rows, many, in, sums);
    } else {
        tiles<4, MOST_ROWS, true>(weight, count, rows, in, sums);
        for (row = MOST_ROWS; row + MOST_ROWS <= many; row += MOST_ROWS)
            tiles<4, MOST_ROWS, false>(weight, count, rows + row * in, in, sums + row);
        few<false>(weight, count, rows + row * in, many - row, in, sums + row);
    }
    if (!matrix.bias) return;
    const T* bias = (const T*)matrix.bias + first;
    for (row = 0; row < many; row++)
        for (long column = 0; column < count; column++) sums[row][column] += widen(bias[column]);
}

// emit(row, row of the weight, product) for all rows and `count` <= PANEL rows of a weight from `first` on.
template <class T, class Emit>
inline void multiply(const Matrix& matrix, long first, long count, const T* rows, long many, long in, Emit emit) {
    float sums[AT_ONCE][PANEL];
    for (long start = 0; start < many; start += AT_ONCE) {
        const long some = many - start < AT_ONCE ? many - start : AT_ONCE;
        panel(matrix, first, count, rows + start * in, some, in, sums);
        for (long row = 0; row < some; row++)
            for (long column = 0; column < count; column++) emit(start + row, first + column, sums[row][column]);
    }
}

// work(first row of the weight, how many) for each panel of a matrix, by all threads, each taking enough bytes at a time
// for the memory to stream. in: numbers that are read for each row of the weight. Nobody waits at the end where `go_on`.
template <class T, class Work> inline void each_panel(const Matrix& matrix, long in, Work work, bool go_on = false) {
    const long panels = (matrix.out + PANEL - 1) / PANEL;
    const long at_once = 65536 / (PANEL * in * (long)sizeof(T)) + 1;
    auto one = [&](long panel) {
        const long first = panel * PANEL, left = matrix.out - first;
        work(first, left < PANEL ? left : PANEL);
    };
    if (go_on) {
#pragma omp for schedule(dynamic, at_once) nowait
        for (long panel = 0; panel < panels; panel++) one(panel);
    } else {
#pragma omp for schedule(dynamic, at_once)
        for (long panel = 0; panel < panels; panel++) one(panel);
    }
}

// All products, (many, matrix.out), by all threads.
template <class T>
inline void write_products(const Matrix& matrix, const T* rows, long many, long in, float* out, bool go_on = false) {
    each_panel<T>(matrix, in, [&](long first, long count) {
        multiply(matrix, first, count, rows, many, in,
                 [&](long row, long column, float value) { out[row * matrix.out + column] = value; });
    }, go_on);
}
