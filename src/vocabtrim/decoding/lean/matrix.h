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

const int AHEAD = 1024;  // bytes by which a weight's row is asked for before it is used
const int PANEL = 16;  // rows of a weight that are multiplied with all rows, while they are near
#if LANES == 16
const int MOST_ROWS = 6;  // accumulators for four rows of a weight, and what they are made of, in 32 registers
#else
const int MOST_ROWS = 2;
#endif

// Sums of W rows of a weight with R rows.
template <int W, int R, class T>
inline __attribute__((always_inline)) void products(
    const T* weight, const T* rows, long in, float (&sums)[R][W]) {
    typedef Step<T> step;
    Floats totals[R][W] = {};
    long at = 0;
    for (; at + step::WIDTH <= in; at += step::WIDTH) {
        typename step::Numbers weights[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; w++) {
            weights[w] = step::read(weight + w * in + at);
            __builtin_prefetch((const char*)(weight + w * in + at) + AHEAD);
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
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) sums[r][w] = sum(totals[r][w]);
}

// emit(row, number of the weight's row, sum) for R rows and `count` rows of a weight.
template <int W, int R, class T, class Emit>
inline void tiles(const T* weight, long first, long count, const T* rows, long row, long in, Emit emit) {
    long done = 0;
    for (; done + W <= count; done += W) {
        float sums[R][W];
        products<W, R>(weight + (first + done) * in, rows + row * in, in, sums);
        for (int r = 0; r < R; r++)
            for (int w = 0; w < W; w++) emit(row + r, first + done + w, sums[r][w]);
    }
    for (; done < count; done++) {
        float sums[R][1];
        products<1, R>(weight + (first + done) * in, rows + row * in, in, sums);
        for (int r = 0; r < R; r++) emit(row + r, first + done, sums[r][0]);
    }
}

// emit(row, number of the weight's row, sum) for all rows and `count` rows of a weight from `first` on.
template <class T, class Emit>
inline void multiply(const Matrix& matrix, long first, long count, const T* rows, long many, long in, Emit emit) {
    const T* weight = (const T*)matrix.weight;
    const T* bias = (const T*)matrix.bias;
    auto biased = [&](long row, long column, float value) {
        emit(row, column, bias ? value + widen(bias[column]) : value);
    };
    if (many == 1) return tiles<8, 1>(weight, first, count, rows, 0, in, biased);
    long row = 0;
    for (; row + MOST_ROWS <= many; row += MOST_ROWS)
        tiles<4, MOST_ROWS>(weight, first, count, rows, row, in, biased);
    switch (many - row) {
#if LANES == 16
        case 5: return tiles<4, 5>(weight, first, count, rows, row, in, biased);
        case 4: return tiles<4, 4>(weight, first, count, rows, row, in, biased);
        case 3: return tiles<4, 3>(weight, first, count, rows, row, in, biased);
        case 2: return tiles<4, 2>(weight, first, count, rows, row, in, biased);
#endif
        case 1: return tiles<4, 1>(weight, first, count, rows, row, in, biased);
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
