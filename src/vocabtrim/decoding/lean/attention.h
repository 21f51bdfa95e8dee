// Attention of new tokens to the cache: scores, their softmax, and the mix of values.
//
// What a token sees is laid out by position, never by place in the cache: so a token of a tree sees the very row of
// numbers that it would see at the end of a chain, and rounds alike.
#pragma once

#include "vectors.h"

const int QUERIES = 16;  // heads and rows that share what they read of the cache
const int BLOCK = 64;    // entries that stay near while all queries read them

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

template <class T> inline float score(const float* query, const T* key, long size) {
    Floats total = {};
    long at = 0;
    for (; at + LANES <= size; at += LANES) total += load(query + at) * load(key + at);
    if (at < size) total += load_some(query + at, size - at) * load_some(key + at, size - at);
    return sum(total);
}

// Adds `count` values (size,), one every `stride`, times their shares to `mixed` (size,).
template <class T>
inline void mix(float* mixed, const float* shares, const T* values, long count, long size) {
    long at = 0;
    for (; at + 4 * LANES <= size; at += 4 * LANES) {
        Floats totals[4];
        for (int i = 0; i < 4; i++) totals[i] = load(mixed + at + i * LANES);
        for (long n = 0; n < count; n++)
            for (int i = 0; i < 4; i++) totals[i] += load(values + n * size + at + i * LANES) * shares[n];
        for (int i = 0; i < 4; i++) store(mixed + at + i * LANES, totals[i]);
    }
    for (; at < size; at += LANES) {
        long some = size - at < LANES ? size - at : LANES;
        Floats total = load_up_to(mixed + at, some);
        for (long n = 0; n < count; n++) total += load_up_to(values + n * size + at, some) * shares[n];
        store_up_to(mixed + at, total, some);
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
        long some = count - at < LANES ? count - at : LANES;
        Floats shares = exponential((load_up_to(scores + at, some) - top) * scaling);
        if (some < LANES)
            for (int i = some; i < LANES; i++) shares[i] = 0;
        total += shares;
        store_up_to(scores + at, shares, some);
    }
    float part = 1 / sum(total);
    for (at = 0; at < count; at++) scores[at] *= part;
}

// Rows `row` to before `end` of one head of keys and all heads of queries that share it.
// queries: (rows, queries * size). out: alike. scores, mixed: scratch of a thread, QUERIES or more rows of `room` and of
// `size`.
template <class T>
void attend(const Heads& heads, long key_head, long row, long end, const Sight* sights, const float* queries,
            const T* keys, const T* values, T* out, float* scores, long room, float* mixed) {
    const long size = heads.size, group = heads.queries / heads.keys;
    keys += key_head * heads.capacity * size;
    values += key_head * heads.capacity * size;
    auto query_of = [&](long n) {
        return ((row + n / group) * heads.queries + key_head * group + n % group) * size;
    };
    const long many = (end - row) * group;
    long from = sights[row].first, to = 0;
    for (long r = row; r < end; r++) {
        from = sights[r].first < from ? sights[r].first : from;
        to = sights[r].straight > to ? sights[r].straight : to;
    }
    for (long block = from; block < to; block += BLOCK)
        for (long n = 0; n < many; n++) {
            const Sight& sight = sights[row + n / group];
            long last = block + BLOCK < sight.straight ? block + BLOCK : sight.straight;
            for (long j = block > sight.first ? block : sight.first; j < last; j++)
                scores[n * room + j - sight.first] = score(queries + query_of(n), keys + j * size, size);
        }
    for (long n = 0; n < many; n++) {
        const Sight& sight = sights[row + n / group];
        float* beyond = scores + n * room + sight.straight - sight.first;
        for (long j = 0; j < sight.beyonds; j++)
            beyond[j] = score(queries + query_of(n), keys + sight.beyond[j] * size, size);
        softmax(scores + n * room, sight.length(), heads.scaling);
    }
    memset(mixed, 0, many * size * sizeof(float));
    for (long block = from; block < to; block += BLOCK)
        for (long n = 0; n < many; n++) {
            const Sight& sight = sights[row + n / group];
            long last = block + BLOCK < sight.straight ? block + BLOCK : sight.straight;
            long begin = block > sight.first ? block : sight.first;
            if (begin < last)
                mix(mixed + n * size, scores + n * room + begin - sight.first, values + begin * size, last - begin, size);
        }
    for (long n = 0; n < many; n++) {
        const Sight& sight = sights[row + n / group];
        const float* beyond = scores + n * room + sight.straight - sight.first;
        for (long j = 0; j < sight.beyonds; j++)
            mix(mixed + n * size, beyond + j, values + sight.beyond[j] * size, 1, size);
        for (long i = 0; i < size; i++) narrow(out + query_of(n) + i, mixed[n * size + i]);
    }
}
