// Attention of new tokens to the cache: scores, their softmax, and the mix of values.
//
// What a token sees is laid out by position, never by place in the cache: so a token of a tree sees the very row of
// numbers that it would see at the end of a chain, and rounds alike.
#pragma once

#include "vectors.h"

const int QUERIES = 16;  // heads and rows that share what they read of the cache
const int BLOCK = 64;    // entries that stay near while all queries read them
#if LANES == 16
const int TOGETHER = 4;  // queries that meet each entry at once
#else
const int TOGETHER = 2;
#endif

// Entries that a token attends to: those from `first` to before `straight`, then `beyond`, in ascending order.
struct Sight {
    int64_t first, straight;
    const int64_t* beyond;
    int64_t beyonds;
    long length() const { return straight - first + beyonds; }
};

struct Heads {
    int64_t queries, keys, size, capacity;
    float scaling;
};

// Scores of K keys, which stand behind each other, for R queries: scores[r] points to those of query r.
template <int R, int K, class T>
__attribute__((noinline)) void score(
    const float* const* queries, const T* keys, long size, float* const* scores, long at) {
    Floats totals[R][K] = {};
    long done = 0;
    for (; done < size; done += LANES) {
        const bool whole = done + LANES <= size;
        Floats key[K];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            key[k] = whole ? load(keys + k * size + done) : load_some(keys + k * size + done, size - done);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            Floats query = whole ? load(queries[r] + done) : load_some(queries[r] + done, size - done);
#pragma GCC unroll 4
            for (int k = 0; k < K; k++) totals[r][k] += query * key[k];
        }
    }
    for (int r = 0; r < R; r++) sum_each<K>(totals[r], scores[r] + at);
}

// Scores of `count` keys, written from place `at` on.
template <int R, class T>
inline void score_all(const float* const* queries, const T* keys, long count, long size, float* const* scores, long at) {
    long done = 0;
    for (; done + 4 <= count; done += 4) score<R, 4>(queries, keys + done * size, size, scores, at + done);
    for (; done < count; done++) score<R, 1>(queries, keys + done * size, size, scores, at + done);
}

// Adds `count` values (size,), which stand behind each other, times their shares to R mixtures (size,), one value after
// the other.
template <int R, class T>
__attribute__((noinline)) void mix(float* const* mixed, const float* const* shares, long at, const T* values, long count, long size) {
    const int WIDE = 4;
    long part = 0;
    for (; part + WIDE * LANES <= size; part += WIDE * LANES) {
        Floats totals[R][WIDE];
        for (int r = 0; r < R; r++)
            for (int i = 0; i < WIDE; i++) totals[r][i] = load(mixed[r] + part + i * LANES);
        for (long n = 0; n < count; n++) {
            Floats value[WIDE];
#pragma GCC unroll 4
            for (int i = 0; i < WIDE; i++) value[i] = load(values + n * size + part + i * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int i = 0; i < WIDE; i++) totals[r][i] += value[i] * shares[r][at + n];
        }
        for (int r = 0; r < R; r++)
            for (int i = 0; i < WIDE; i++) store(mixed[r] + part + i * LANES, totals[r][i]);
    }
    for (; part < size; part += LANES) {
        const long some = size - part < LANES ? size - part : LANES;
        for (int r = 0; r < R; r++) {
            Floats total = load_up_to(mixed[r] + part, some);
            for (long n = 0; n < count; n++) total += load_up_to(values + n * size + part, some) * shares[r][at + n];
            store_up_to(mixed[r] + part, total, some);
        }
    }
}

// Scores -> shares that sum to one.
inline void softmax(float* scores, long count, float scaling) {
    Floats most = all(-INFINITY);
    long at = 0;
    for (; at + LANES <= count; at += LANES) most = larger(most, load(scores + at));
    float top = largest(most);
    for (long rest = at; rest < count; rest++) top = scores[rest] > top ? scores[rest] : top;
    Floats total = {};
    for (at = 0; at < count; at += LANES) {
        const long some = count - at < LANES ? count - at : LANES;
        Floats shares = exponential((load_up_to(scores + at, some) - top) * scaling);
        for (int i = some; i < LANES; i++) shares[i] = 0;
        total += shares;
        store_up_to(scores + at, shares, some);
    }
    const float part = 1 / sum(total);
    for (at = 0; at < count; at += LANES) {
        const long some = count - at < LANES ? count - at : LANES;
        store_up_to(scores + at, load_up_to(scores + at, some) * part, some);
    }
}

// R queries of one task side by side: what they are, what they see, their scores and their mixtures.
template <int R> struct Group {
    const float* queries[R];
    const Sight* sights[R];
    float* scores[R];
    float* mixed[R];

    // work(first entry, how many, queries from, queries to) over a block, in ascending order for each query: entries that
    // all see are taken by all at once.
    template <class Work> void over(long block, long end, Work work) const {
        long from = block, to = end;
        for (int r = 0; r < R; r++) {
            from = sights[r]->first > from ? sights[r]->first : from;
            to = sights[r]->straight < to ? sights[r]->straight : to;
        }
        if (from > to) from = to = end;  // nothing that all see
        for (int r = 0; r < R; r++) alone(r, block, from < end ? from : end, work);
        if (from < to) work.template all<R>(*this, from, to - from);
        for (int r = 0; r < R; r++) alone(r, to, end, work);
    }

    template <class Work> void alone(int r, long begin, long end, Work work) const {
        begin = sights[r]->first > begin ? sights[r]->first : begin;
        end = sights[r]->straight < end ? sights[r]->straight : end;
        if (begin >= end) return;
        Group<1> one{{queries[r]}, {sights[r]}, {scores[r]}, {mixed[r]}};
        work.template all<1>(one, begin, end - begin);
    }
};

template <class T> struct Scoring {
    const T* keys;
    long size;
    template <int R> void all(const Group<R>& group, long first, long count) const {
        float* scores[R];
        for (int r = 0; r < R; r++) scores[r] = group.scores[r] - group.sights[r]->first;
        score_all<R>(group.queries, keys + first * size, count, size, scores, first);
    }
};

template <class T> struct Mixing {
    const T* values;
    long size;
    template <int R> void all(const Group<R>& group, long first, long count) const {
        const float* shares[R];
        for (int r = 0; r < R; r++) shares[r] = group.scores[r] - group.sights[r]->first;
        mix<R>(group.mixed, shares, first, values + first * size, count, size);
    }
};

// Rows `row` to before `end` of one head of keys and all heads of queries that share it.
// queries, out: (rows, query heads * size). scores, mixed: scratch of a thread, (end - row) times the heads of queries
// rows of `room` and of `size`.
template <class T>
void attend(const Heads& heads, long key_head, long row, long end, const Sight* sights, const float* queries,
            const T* keys, const T* values, T* out, float* scores, long room, float* mixed) {
    const long size = heads.size, group = heads.queries / heads.keys, many = (end - row) * group;
    keys += key_head * heads.capacity * size;
    values += key_head * heads.capacity * size;
    auto place_of = [&](long n) {
        return ((row + n / group) * heads.queries + key_head * group + n % group) * size;
    };
    auto fill = [&](auto& some, long first) {
        for (size_t r = 0; r < sizeof some.queries / sizeof *some.queries; r++) {
            const long n = first + r;
            some.queries[r] = queries + place_of(n);
            some.sights[r] = sights + row + n / group;
            some.scores[r] = scores + n * room;
            some.mixed[r] = mixed + n * size;
        }
    };
    long from = sights[row].first, to = 0;
    for (long r = row; r < end; r++) {
        from = sights[r].first < from ? sights[r].first : from;
        to = sights[r].straight > to ? sights[r].straight : to;
    }
    auto over_all = [&](auto work) {
        for (long block = from; block < to; block += BLOCK) {
            const long last = block + BLOCK < to ? block + BLOCK : to;
            long n = 0;
            for (; n + TOGETHER <= many; n += TOGETHER) {
                Group<TOGETHER> some;
                fill(some, n);
                some.over(block, last, work);
            }
            for (; n < many; n++) {
                Group<1> one;
                fill(one, n);
                one.over(block, last, work);
            }
        }
    };
    over_all(Scoring<T>{keys, size});
    for (long n = 0; n < many; n++) {
        Group<1> one;
        fill(one, n);
        const Sight& sight = *one.sights[0];
        for (long j = 0; j < sight.beyonds; j++)
            score_all<1>(one.queries, keys + sight.beyond[j] * size, 1, size, one.scores,
                         sight.straight - sight.first + j);
        softmax(one.scores[0], sight.length(), heads.scaling);
    }
    memset(mixed, 0, many * size * sizeof(float));
    over_all(Mixing<T>{values, size});
    for (long n = 0; n < many; n++) {
        Group<1> one;
        fill(one, n);
        const Sight& sight = *one.sights[0];
        for (long j = 0; j < sight.beyonds; j++)
            mix<1>(one.mixed, one.scores, sight.straight - sight.first + j, values + sight.beyond[j] * size, 1, size);
        for (long i = 0; i < size; i += LANES)
            store_up_to(out + place_of(n) + i, load_up_to(one.mixed[0] + i, size - i), size - i);
    }
}
