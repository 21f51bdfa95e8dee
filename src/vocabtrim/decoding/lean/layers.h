// Decoder layers as Llama, Mistral, Qwen2 and Qwen3 have them, and EAGLE's drafters with them: one pass over new tokens.
//
// All threads go through a pass together, stage by stage; each stage's work is taken in portions by whoever is free.
// Sums and what stands between layers are float32. What a matrix is multiplied with is rounded to the weights' dtype, as
// are keys and values.
#pragma once

#include "arena.h"
#include "attention.h"
#include "matrix.h"

struct Layer {
    const void* input_norm;   // (hidden,) or null for none
    const void* beside_norm;  // (hidden,) of EAGLE-3's embedding beside the feature, else null
    Matrix query, key, value, output, gate, up, down;
    const void *query_norm, *key_norm;  // (head size,) or null
    const void* middle_norm;            // (hidden,)
    void *keys, *values;                // (key heads, capacity, head size)
    int64_t window;                     // positions that a token looks back, itself among them; 0 for all
};

struct Stack {
    int64_t layers, hidden, inner, ids;
    Heads heads;
    float eps;
    int32_t normed_residual;  // EAGLE-3: the normed feature, not the feature, is what a layer adds to
    const Layer* layer;
    const void* embedding;  // (ids, hidden)
    Matrix fuse;            // EAGLE-1/2: over embedding and feature side by side; none where weight is null
    const void* last_norm;  // (hidden,) or null for none
    const float *cosines, *sines;  // (positions, head size)
};

struct Pass {
    const int64_t* tokens;     // (rows,)
    const int64_t* positions;  // (rows,), or null where they are those behind `past`
    const float* features;     // (rows, hidden) of the tokens before, or null
    const uint8_t* visible;    // (rows, columns), which of the newest entries each row sees; null for a chain
    int64_t rows, columns, past;
    const int64_t* states;  // layers whose input is wanted; the number of layers, or -1, for what the head reads
    int64_t states_count;
    void* hidden;     // (rows, states * hidden), in the weights' dtype
    float* features_out;  // (rows, hidden) before the last norm, or null
    void* head_input;     // (rows, hidden) behind it, in the weights' dtype
};

inline long position(const Pass& pass, long row) { return pass.positions ? pass.positions[row] : pass.past + row; }

// Buffers of a pass, shared by all threads.
template <class T> struct Room {
    float* residual;  // (rows, hidden)
    T* read;          // (rows, widest input of a matrix)
    float* queries;   // (rows, query heads * size)
    float* keys;      // (rows, key heads * size)
    float* values;    // (rows, key heads * size)
    T* inner;         // (rows, inner)
    Sight* sights;    // (rows,)
    int64_t* beyond;  // (rows, columns)
    float* scores;    // (threads, QUERIES or a row's heads, longest)
    float* mixed;     // (threads, as many, head size)
    int64_t longest;  // entries that a row sees at most
};

// Root mean square norm; `out` may be `row` itself.
template <class Out, class In, class T>
inline void norm(Out* out, const In* row, const T* weight, long size, float eps) {
    Floats squares = {};
    for (long at = 0; at < size; at += LANES) {
        Floats values = load_up_to(row + at, size - at);
        squares += values * values;
    }
    float scale = 1 / sqrtf(sum(squares) / size + eps);
    for (long at = 0; at < size; at += LANES)
        store_up_to(out + at, load_up_to(row + at, size - at) * scale * load_up_to(weight + at, size - at), size - at);
}

template <class T> inline void cast(T* out, const float* row, long size) {
    for (long at = 0; at < size; at += LANES) store_up_to(out + at, load_up_to(row + at, size - at), size - at);
}

template <class T> inline void norm_or_cast(T* out, const float* row, const void* weight, long size, float eps) {
    weight ? norm(out, row, (const T*)weight, size, eps) : cast(out, row, size);
}

// One head's row turned to its position; with a norm of its own before, as Qwen3 has.
template <class T>
inline void turn(float* head, const T* weight, const float* cosines, const float* sines, long size, float eps) {
    if (weight) norm(head, head, weight, size, eps);
    const long half = size / 2;
    for (long i = 0; i < half; i++) {
        float low = head[i], high = head[i + half];
        head[i] = low * cosines[i] - high * sines[i];
        head[i + half] = high * cosines[i + half] + low * sines[i + half];
    }
}

// What each new row sees, in order of position. In a tree a row's ancestors, from the first level on, are its columns.
inline void look(Sight* sights, int64_t* beyond, const Pass& pass, long window) {
    const long straight = pass.past + pass.rows - pass.columns;
    for (long row = 0; row < pass.rows; row++) {
        Sight& sight = sights[row];
        const long earliest = window ? position(pass, row) - window + 1 : 0;
        sight.first = earliest > 0 ? earliest : 0;
        sight.straight = pass.visible ? straight : pass.past + row + 1;
        sight.beyond = beyond + row * pass.columns;
        sight.beyonds = 0;
        if (!pass.visible) continue;
        long beyond_window = sight.first - straight;  // ancestors that are too far back
        if (beyond_window > 0) sight.first = straight;
        for (long column = 0; column < pass.columns; column++)
            if (pass.visible[row * pass.columns + column] && beyond_window-- <= 0)
                beyond[row * pass.columns + sight.beyonds++] = straight + column;
    }
}

// What the first layer adds to: embeddings, features, or with `fuse` what EAGLE's fc makes of both.
template <class T> void enter(const Stack& stack, const Pass& pass, const Room<T>& room) {
    const long hidden = stack.hidden;
    const T* embedding = (const T*)stack.embedding;
#pragma omp for
    for (long row = 0; row < pass.rows; row++) {
        const T* embedded = embedding + pass.tokens[row] * hidden;
        float* residual = room.residual + row * hidden;
        T* both = room.read + row * 2 * hidden;
        if (stack.fuse.weight) {
            memcpy(both, embedded, hidden * sizeof(T));
            cast(both + hidden, pass.features + row * hidden, hidden);
        } else if (pass.features) {
            memcpy(residual, pass.features + row * hidden, hidden * sizeof(float));
        } else {
            for (long i = 0; i < hidden; i++) residual[i] = widen(embedded[i]);
        }
    }
    if (!stack.fuse.weight) return;
    write_products(stack.fuse, room.read, pass.rows, 2 * hidden, room.residual);
}

// What a layer's attention reads: the normed residual; for EAGLE-3 the normed embedding stands before it.
template <class T> void prepare(const Stack& stack, const Layer& layer, const Pass& pass, const Room<T>& room) {
    const long hidden = stack.hidden, width = layer.beside_norm ? 2 * hidden : hidden;
#pragma omp for
    for (long row = 0; row < pass.rows; row++) {
        float* residual = room.residual + row * hidden;
        T* read = room.read + row * width;
        if (layer.beside_norm) {
            const T* embedded = (const T*)stack.embedding + pass.tokens[row] * hidden;
            norm(read, embedded, (const T*)layer.beside_norm, hidden, stack.eps);
            read += hidden;
        }
        norm_or_cast(read, residual, layer.input_norm, hidden, stack.eps);
        if (layer.beside_norm && stack.normed_residual)
            norm(residual, residual, (const T*)layer.input_norm, hidden, stack.eps);
    }
}

// Queries, keys and values of the new rows; keys and values go behind those in the cache.
template <class T> void project(const Stack& stack, const Layer& layer, const Pass& pass, const Room<T>& room) {
    const Heads& heads = stack.heads;
    const long in = layer.beside_norm ? 2 * stack.hidden : stack.hidden;
    const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
    float* outs[] = {room.queries, room.keys, room.values};
    for (int which = 0; which < 3; which++)
        write_products(*matrices[which], room.read, pass.rows, in, outs[which], which < 2);
    const long size = heads.size, units = heads.queries + heads.keys;
#pragma omp for
    for (long unit = 0; unit < pass.rows * units; unit++) {
        const long row = unit / units, head = unit % units;
        const float* cosines = stack.cosines + position(pass, row) * size;
        const float* sines = stack.sines + position(pass, row) * size;
        if (head < heads.queries) {
            float* query = room.queries + (row * heads.queries + head) * size;
            turn(query, (const T*)layer.query_norm, cosines, sines, size, stack.eps);
            continue;
        }
        const long own = head - heads.queries, entry = (own * heads.capacity + pass.past + row) * size;
        float* key = room.keys + (row * heads.keys + own) * size;
        turn(key, (const T*)layer.key_norm, cosines, sines, size, stack.eps);
        cast((T*)layer.keys + entry, key, size);
        cast((T*)layer.values + entry, room.values + (row * heads.keys + own) * size, size);
    }
}

template <class T> void look_back(const Stack& stack, const Layer& layer, const Pass& pass, const Room<T>& room) {
    const Heads& heads = stack.heads;
    const long group = heads.queries / heads.keys, at_once = group < QUERIES ? QUERIES / group : 1;
    const long portions = (pass.rows + at_once - 1) / at_once, most = at_once * group;
#pragma omp for schedule(dynamic, 1)
    for (long task = 0; task < heads.keys * portions; task++) {
        const long thread = omp_get_thread_num(), row = task % portions * at_once;
        const long end = row + at_once < pass.rows ? row + at_once : pass.rows;
        attend(heads, task / portions, row, end, room.sights, room.queries, (const T*)layer.keys,
               (const T*)layer.values, room.read, room.scores + thread * most * room.longest, room.longest,
               room.mixed + thread * most * heads.size);
    }
}

// Adds a matrix's products to the residual.
template <class T>
void add(const Stack& stack, const Matrix& matrix, const T* read, long in, const Pass& pass, const Room<T>& room) {
    each_panel<T>(matrix, in, [&](long first, long count) {
        multiply(matrix, first, count, read, pass.rows, in,
                 [&](long row, long column, float value) { room.residual[row * stack.hidden + column] += value; });
    });
}

// The gated feed-forward block.
template <class T> void feed(const Stack& stack, const Layer& layer, const Pass& pass, const Room<T>& room) {
    const long hidden = stack.hidden, inner = stack.inner;
#pragma omp for
    for (long row = 0; row < pass.rows; row++)
        norm(room.read + row * hidden, room.residual + row * hidden, (const T*)layer.middle_norm, hidden, stack.eps);
    each_panel<T>(layer.gate, 2 * hidden, [&](long first, long count) {
        float gates[AT_ONCE][PANEL], ups[AT_ONCE][PANEL];
        for (long start = 0; start < pass.rows; start += AT_ONCE) {
            const long some = pass.rows - start < AT_ONCE ? pass.rows - start : AT_ONCE;
            panel(layer.gate, first, count, room.read + start * hidden, some, hidden, gates);
            panel(layer.up, first, count, room.read + start * hidden, some, hidden, ups);
            for (long row = 0; row < some; row++)
                for (long at = 0; at < count; at += LANES) {
                    Floats gate = load(gates[row] + at), up = load(ups[row] + at);
                    Floats product = gate * sigmoid(gate) * up;
                    store_up_to(room.inner + (start + row) * inner + first + at, product, count - at);
                }
        }
    });
    add(stack, layer.down, room.inner, inner, pass, room);
}

// Copies out the residual as one of the states that were asked for.
template <class T> void tell(const Stack& stack, const Pass& pass, const Room<T>& room, long layer) {
    for (long place = 0; place < pass.states_count; place++) {
        if (pass.states[place] != layer) continue;
#pragma omp for
        for (long row = 0; row < pass.rows; row++)
            cast((T*)pass.hidden + (row * pass.states_count + place) * stack.hidden,
                 room.residual + row * stack.hidden, stack.hidden);
    }
}

// What the head reads, and where it was asked for, as a state.
template <class T> void leave(const Stack& stack, const Pass& pass, const Room<T>& room) {
    const long hidden = stack.hidden;
#pragma omp for
    for (long row = 0; row < pass.rows; row++) {
        const float* residual = room.residual + row * hidden;
        T* head_input = (T*)pass.head_input + row * hidden;
        if (pass.features_out) memcpy(pass.features_out + row * hidden, residual, hidden * sizeof(float));
        norm_or_cast(head_input, residual, stack.last_norm, hidden, stack.eps);
        for (long place = 0; place < pass.states_count; place++)
            if (pass.states[place] == stack.layers)
                memcpy((T*)pass.hidden + (row * pass.states_count + place) * hidden, head_input, hidden * sizeof(T));
    }
}

template <class T> void run(const Stack& stack, const Pass& pass) {
    const Heads& heads = stack.heads;
    const long rows = pass.rows, threads = omp_get_max_threads(), group = heads.queries / heads.keys;
    const long widest = heads.queries * heads.size > 2 * stack.hidden ? heads.queries * heads.size : 2 * stack.hidden;
    const long most = group > QUERIES ? group : QUERIES;
    thread_local Arena arena;
    arena.reuse();
    Room<T> room;
    room.longest = heads.capacity;  // the same in every pass, so that memory is taken once
    room.residual = arena.take<float>(rows * stack.hidden);
    room.read = arena.take<T>(rows * widest);
    room.queries = arena.take<float>(rows * heads.queries * heads.size);
    room.keys = arena.take<float>(rows * heads.keys * heads.size);
    room.values = arena.take<float>(rows * heads.keys * heads.size);
    room.inner = arena.take<T>(rows * stack.inner);
    room.sights = arena.take<Sight>(rows);
    room.beyond = arena.take<int64_t>(rows * pass.columns);
    room.scores = arena.take<float>(threads * most * room.longest);
    room.mixed = arena.take<float>(threads * most * heads.size);
#pragma omp parallel
    {
        enter(stack, pass, room);
        for (long number = 0; number < stack.layers; number++) {
            const Layer& layer = stack.layer[number];
            tell(stack, pass, room, number);
            if (number == 0 || layer.window != stack.layer[number - 1].window) {
#pragma omp single
                look(room.sights, room.beyond, pass, layer.window);
            }
            prepare(stack, layer, pass, room);
            project(stack, layer, pass, room);
            look_back(stack, layer, pass, room);
            add(stack, layer.output, room.read, heads.queries * heads.size, pass, room);
            feed(stack, layer, pass, room);
        }
        leave(stack, pass, room);
    }
}
