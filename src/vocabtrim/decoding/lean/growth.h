// Everything that is drafted behind a root, in one call: a greedy chain, or EAGLE-2's tree (arXiv 2406.16858, section 4).
//
// What is drafted, and the order of every sum, is as drafters/plans.py and drafters/host_tree.py have it, step by step;
// here nothing stands between the steps.
#pragma once

#include "best.h"
#include "layers.h"

struct Growth {
    const float* root_logits;   // (kept,)
    const float* root_feature;  // (hidden,), or null where layers read no features
    const int64_t* kept_ids;    // (kept,), or null where row i is id i
    Matrix head;
    int64_t depth, branching, drafted;  // drafted: nodes of the tree at most, the root not among them
    int64_t past;                       // entries up to the root's
    int32_t ranked;                     // whether it matters how probable ids are; a chain takes the best alone
    int32_t normed_features;            // whether the next level reads what the head reads
    int64_t *tokens, *parents, *entries;  // (drafted,), parents first; see Nodes of host_tree.py
    int64_t count, read;                  // of nodes; of entries that were appended
    float largest;                        // the logit that is no number, where one is
    double head_seconds, choosing_seconds;  // of all that was done: for the head's products; for choosing among them
};

// Places of the largest of `size` numbers in descending order, the first of equals first; how many there are.
inline long largest_places(const float* worth, long size, long count, int64_t* places) {
    long found = 0;
    for (long i = 0; i < size; i++) {
        long at = found < count ? found++ : count;
        for (; at > 0 && worth[i] > worth[places[at - 1]]; at--)
            if (at < count) places[at] = places[at - 1];
        if (at < count) places[at] = i;
    }
    return found;
}

// 0, or 3 where a logit is no number.
template <class T> int grow(const Stack& stack, Growth& told) {
    const long kept = told.head.out, hidden = stack.hidden, branching = told.branching;
    const long width = branching < kept ? branching : kept;
    const long most = width + (told.depth - 1) * branching * width, reads = branching * (told.depth - 1);
    thread_local Arena arena;
    arena.reuse();
    // Candidates of all levels, one level behind the other.
    int64_t* tokens = arena.take<int64_t>(most);
    int64_t* parents = arena.take<int64_t>(most);      // a candidate, or -1 for the root
    int64_t* parent_rows = arena.take<int64_t>(most);  // which row of the level before
    int64_t* entries = arena.take<int64_t>(most);
    float* worth = arena.take<float>(most);
    // Of the level that is read.
    float* values = arena.take<float>(branching * width);
    int64_t* columns = arena.take<int64_t>(branching * width);
    float* log_sums = arena.take<float>(branching);
    int64_t* order = arena.take<int64_t>(most > branching ? most : branching);
    float* logits = arena.take<float>(branching * kept);
    int64_t* level = arena.take<int64_t>(2 * branching);  // tokens and positions
    float* features = arena.take<float>(2 * branching * hidden);  // read, and made
    T* head_input = arena.take<T>(branching * hidden);
    uint8_t* visible = arena.take<uint8_t>(2 * branching * (reads + 1));
    uint8_t *seen = visible, *before = visible + branching * (reads + 1);

    float* made = features + branching * hidden;
    if (told.root_feature) memcpy(made, told.root_feature, hidden * sizeof(float));
    long first = 0, size = 0, read = 0, rows = 1;
    bool chain = true;
    for (long depth = 0;; depth++) {
        const float* scores = depth ? logits : told.root_logits;
        const double asked = omp_get_wtime();
        rank(scores, rows, kept, width, values, columns, told.ranked ? log_sums : nullptr);
        for (long row = 0; row < rows; row++)
            if (!std::isfinite(values[row * width])) return told.largest = values[row * width], 3;
        const long next = first + size;
        for (long i = 0; i < rows * width; i++) {
            const long row = i / width, column = columns[i];
            const float share = told.ranked ? values[i] - log_sums[row] : 0;
            tokens[next + i] = told.kept_ids ? told.kept_ids[column] : column;
            parents[next + i] = depth ? first + order[row] : -1;
            parent_rows[next + i] = row;
            entries[next + i] = -1;
            worth[next + i] = (depth ? worth[first + order[row]] : 0) + (share < 0 ? share : 0);
        }
        first = next, size = rows * width;
        told.choosing_seconds += omp_get_wtime() - asked;
        if (depth + 1 == told.depth) break;
        rows = largest_places(worth + first, size, branching, order);
        chain = chain && rows == 1;
        for (long row = 0; row < rows; row++) {
            const long candidate = first + order[row], parent = parent_rows[candidate];
            level[row] = tokens[candidate];
            level[branching + row] = told.past + depth;
            entries[candidate] = read + row;
            if (told.root_feature) memcpy(features + row * hidden, made + parent * hidden, hidden * sizeof(float));
            uint8_t* sees = seen + row * (read + rows);
            if (read) memcpy(sees, before + parent * read, read);
            memset(sees + read, 0, rows);
            sees[read + row] = 1;
        }
        Pass pass = {};
        pass.tokens = level, pass.positions = level + branching;
        pass.features = told.root_feature ? features : nullptr;
        pass.visible = chain ? nullptr : seen, pass.columns = chain ? 0 : read + rows;
        pass.rows = rows, pass.past = told.past + read;
        pass.features_out = made, pass.head_input = head_input;
        run<T>(stack, pass);
        const double began = omp_get_wtime();
#pragma omp parallel
        write_products(told.head, head_input, rows, hidden, logits);
        told.head_seconds += omp_get_wtime() - began;
        if (told.normed_features)
            for (long i = 0; i < rows * hidden; i++) made[i] = widen(head_input[i]);
        read += rows;
        uint8_t* other = before;
        before = seen, seen = other;
    }
    const long all = first + size;
    told.count = largest_places(worth, all, told.drafted, order);
    told.read = read;
    // In ascending order, so that parents come first; a candidate's node is then its place among those picked.
    int64_t* node_of = parent_rows;
    memset(node_of, 0, all * sizeof(int64_t));
    for (long i = 0; i < told.count; i++) node_of[order[i]] = 1;
    long node = 0;
    for (long candidate = 0; candidate < all; candidate++) {
        if (!node_of[candidate]) continue;
        told.tokens[node] = tokens[candidate];
        told.parents[node] = parents[candidate] < 0 ? 0 : node_of[parents[candidate]];
        told.entries[node] = entries[candidate];
        node_of[candidate] = ++node;
    }
    return 0;
}
