// What Python calls (library.py): a pass, a matrix, a head and its best rows, in float32 or bfloat16.
//
// Sizes and addresses are taken as they are told, proven by library.py and stack.py. 0: done. 1: no memory.
// 2: a token that the embedding has no row for. 3: done, and the largest of some row is NaN or infinite.

#include "growth.h"

// Of a call that knows the dtype of its weights by a number: 0 float32, 1 bfloat16.
template <class Work> int with_dtype(int dtype, Work work) {
    try {
        dtype ? work(Bfloat()) : work(float());
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

static int numbers(const float* values, long many, long width) {
    for (long row = 0; row < many; row++)
        if (!std::isfinite(values[row * width])) return 3;
    return 0;
}

extern "C" {

int vocabtrim_pass(int dtype, const Stack* stack, const Pass* pass) {
    for (long row = 0; row < pass->rows; row++)
        if (pass->tokens[row] < 0 || pass->tokens[row] >= stack->ids) return 2;
    return with_dtype(dtype, [&](auto kind) { run<decltype(kind)>(*stack, *pass); });
}

// Appends what it reads to the cache behind `past`.
int vocabtrim_grow(int dtype, const Stack* stack, Growth* growth) {
    int code = 0;
    return with_dtype(dtype, [&](auto kind) { code = grow<decltype(kind)>(*stack, *growth); }) ?: code;
}

// rows: (many, in) in the weight's dtype. out: (many, matrix.out) float32.
int vocabtrim_multiply(int dtype, const Matrix* matrix, const void* rows, int64_t many, int64_t in, float* out) {
    return with_dtype(dtype, [&](auto kind) {
        typedef decltype(kind) T;
#pragma omp parallel
        write_products(*matrix, (const T*)rows, many, in, out);
    });
}

// The best row of a head for each row: values, columns (many, width).
int vocabtrim_best(int dtype, const Matrix* head, const void* rows, int64_t many, int64_t in, int64_t width,
                   float* values, int64_t* columns) {
    return with_dtype(dtype, [&](auto kind) {
        best(*head, (const decltype(kind)*)rows, many, in, width, values, columns);
    }) ?: numbers(values, many, width);
}

// logits: (many, columns) float32. values, found: (many, width). log_sums: (many,) or null.
int vocabtrim_rank(const float* logits, int64_t many, int64_t columns, int64_t width, float* values, int64_t* found,
                   float* log_sums) {
    return with_dtype(0, [&](auto) { rank(logits, many, columns, width, values, found, log_sums); })
           ?: numbers(values, many, width);
}
}
