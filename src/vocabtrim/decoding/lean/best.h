// A head and the best of its rows in one reading: no row of logits as long as the head is written.
#pragma once

#include "arena.h"
#include "matrix.h"

const int PORTION = 256;  // rows of a head that are scored before the best of them are looked for

// The best of a row of logits so far, the first of equals.
struct Ranking {
    float* values;
    int64_t* columns;
    long width;

    void clear() {
        for (long i = 0; i < width; i++) values[i] = -INFINITY, columns[i] = -1;
    }
    // Columns may come in any order.
    void offer(float value, int64_t column) {
        const bool number = value == value;
        if (number && !(value > values[width - 1] || (value == values[width - 1] && after(column, columns[width - 1]))))
            return;
        long place = width - 1;
        for (; place > 0 && beats(value, column, place - 1); place--)
            values[place] = values[place - 1], columns[place] = columns[place - 1];
        values[place] = value, columns[place] = column;
    }

  private:
    static bool after(int64_t column, int64_t other) { return other < 0 || column < other; }
    bool beats(float value, int64_t column, long place) const {
        if (value != value) return values[place] == values[place];  // NaN counts as the largest, so that it is seen
        return value > values[place] || (value == values[place] && after(column, columns[place]));
    }
};

// Whether any of the numbers may belong among the best: as large as the least of them, or no number at all.
inline bool any_above(Floats scores, float least) {
#if LANES == 16
    return _mm512_cmp_ps_mask((__m512)scores, _mm512_set1_ps(least), _CMP_NLT_UQ) != 0;
#else
    for (int i = 0; i < LANES; i++)
        if (!(scores[i] < least)) return true;
    return false;
#endif
}

// The largest of `count` numbers, and the sum of exponentials of their distances from it.
inline void sum_exponentials(const float* scores, long count, float& top, float& total) {
    Floats most = all(-INFINITY), sums = {};
    long whole = 0;
    for (; whole + LANES <= count; whole += LANES) most = larger(most, load(scores + whole));
    top = largest(most);
    for (; whole < count; whole++) top = scores[whole] > top ? scores[whole] : top;
    total = 0;
    if (top == -INFINITY) return;
    for (long at = 0; at < count; at += LANES) {
        const long some = count - at < LANES ? count - at : LANES;
        Floats shares = exponential(load_up_to(scores + at, some) - top);
        for (int i = some; i < LANES; i++) shares[i] = 0;
        sums += shares;
    }
    total = sum(sums);
}

// Of many rows of logits, found portion by portion by all threads: the best, and what their exponentials sum to.
class Search {
    const long portions, many, width, threads;
    float *found_values, *tops, *sums;
    int64_t* found_columns;

  public:
    Search(Arena& arena, long columns, long many, long width)
        : portions((columns + PORTION - 1) / PORTION), many(many), width(width), threads(omp_get_max_threads()) {
        found_values = arena.take<float>(threads * many * width);
        found_columns = arena.take<int64_t>(threads * many * width);
        tops = arena.take<float>(portions * many);
        sums = arena.take<float>(portions * many);
        for (long place = 0; place < threads * many; place++) ranking(place).clear();
    }

    // Takes `count` logits of a row, columns from `portion` * PORTION on.
    void look(long thread, long row, long portion, const float* logits, long count, bool sum) {
        Ranking best = ranking(thread * many + row);
        const float least = best.values[width - 1];
        const long first = portion * PORTION;
        for (long at = 0; at < count; at += LANES) {
            const long some = count - at < LANES ? count - at : LANES;
            if (some == LANES && !any_above(load(logits + at), least)) continue;
            for (long i = at; i < at + some; i++) best.offer(logits[i], first + i);
        }
        if (sum) sum_exponentials(logits, count, tops[portion * many + row], sums[portion * many + row]);
    }

    // values, columns: (rows, width), the best first, column -1 where there are fewer. log_sums: (rows,) the log of the
    // sum of all exponentials, or null.
    void tell(float* values, int64_t* columns, float* log_sums) {
        for (long row = 0; row < many; row++) {
            Ranking best{values + row * width, columns + row * width, width};
            best.clear();
            for (long thread = 0; thread < threads; thread++) {
                Ranking found = ranking(thread * many + row);
                for (long i = 0; i < width && found.columns[i] >= 0; i++) best.offer(found.values[i], found.columns[i]);
            }
            if (!log_sums) continue;
            float top = -INFINITY, total = 0;
            for (long portion = 0; portion < portions; portion++)
                top = tops[portion * many + row] > top ? tops[portion * many + row] : top;
            for (long portion = 0; portion < portions; portion++)
                total += sums[portion * many + row] * expf(tops[portion * many + row] - top);
            log_sums[row] = top + logf(total);
        }
    }

  private:
    Ranking ranking(long place) { return {found_values + place * width, found_columns + place * width, width}; }
};

// The best of a head's rows for each of `many` rows (in,): no row of logits as long as the head is written.
template <class T>
void best(const Matrix& head, const T* rows, long many, long in, long width, float* values, int64_t* columns) {
    thread_local Arena arena;
    arena.reuse();
    Search search(arena, head.out, many, width);
    float* logits = arena.take<float>(omp_get_max_threads() * many * PORTION);
    const long portions = (head.out + PORTION - 1) / PORTION;
#pragma omp parallel
    {
        const long thread = omp_get_thread_num();
        float* own = logits + thread * many * PORTION;
#pragma omp for schedule(dynamic, 1)
        for (long portion = 0; portion < portions; portion++) {
            const long first = portion * PORTION, count = head.out - first < PORTION ? head.out - first : PORTION;
            for (long panel = 0; panel < count; panel += PANEL)
                multiply(head, first + panel, count - panel < PANEL ? count - panel : PANEL, rows, many, in,
                         [&](long row, long column, float value) { own[row * PORTION + column - first] = value; });
            for (long row = 0; row < many; row++)
                search.look(thread, row, portion, own + row * PORTION, count, false);
        }
    }
    search.tell(values, columns, nullptr);
}

// The same of logits (many, columns) that stand there already.
inline void rank(const float* logits, long many, long columns, long width, float* values, int64_t* found,
                 float* log_sums) {
    thread_local Arena arena;
    arena.reuse();
    Search search(arena, columns, many, width);
    const long portions = (columns + PORTION - 1) / PORTION;
    const bool worth_sharing = many * columns > 16384;
#pragma omp parallel for schedule(static) if (worth_sharing)
    for (long task = 0; task < many * portions; task++) {
        const long row = task / portions, portion = task % portions, first = portion * PORTION;
        search.look(omp_get_thread_num(), row, portion, logits + row * columns + first,
                    columns - first < PORTION ? columns - first : PORTION, log_sums != nullptr);
    }
    search.tell(values, found, log_sums);
}
