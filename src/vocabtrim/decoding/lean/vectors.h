// Numbers side by side: as many as a register of this machine holds, loaded from float32 or bfloat16.
//
// Sums are always taken in the same order, however many rows a pass has: that is what makes a pass over a tree round
// exactly as passes over one token at a time do.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

struct Bfloat {
    uint16_t bits;
};

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

template <class To, class From> inline To as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline Floats load(const float* from) {
    Floats values;
    memcpy(&values, from, sizeof values);
    return values;
}

inline Floats load(const Bfloat* from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    return as<Floats>(__builtin_convertvector(halves, Words) << 16);
}

// The first `count` < LANES numbers, and zeros behind them.
template <class T> inline Floats load_some(const T* from, long count) {
    T padded[LANES] = {};
    memcpy(padded, from, count * sizeof(T));
    return load(padded);
}

template <class T> inline Floats load_up_to(const T* from, long count) {
    return count < LANES ? load_some(from, count) : load(from);
}

inline void store(float* to, Floats values) { memcpy(to, &values, sizeof values); }

// To the nearest bfloat16, ties to the even one.
inline void store(Bfloat* to, Floats values) {
    Words bits = as<Words>(values);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Halves halves = __builtin_convertvector(bits, Halves);
    memcpy(to, &halves, sizeof halves);
}

template <class T> inline void store_some(T* to, Floats values, long count) {
    T padded[LANES];
    store(padded, values);
    memcpy(to, padded, count * sizeof(T));
}

template <class T> inline void store_up_to(T* to, Floats values, long count) {
    count < LANES ? store_some(to, values, count) : store(to, values);
}

inline float widen(float value) { return value; }
inline float widen(Bfloat value) { return as<float>(uint32_t(value.bits) << 16); }

inline void narrow(float* to, float value) { *to = value; }
inline void narrow(Bfloat* to, float value) {
    uint32_t bits = as<uint32_t>(value);
    to->bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline Floats all(float value) { return Floats{} + value; }

// Halves added to halves, in an order of its own that never changes.
inline float sum(Floats values) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)values);
#else
    float parts[LANES];
    store(parts, values);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
#endif
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest(Floats values) {
    float most = values[0];
    for (int i = 1; i < LANES; i++) most = values[i] > most ? values[i] : most;
    return most;
}

// e to the power of values <= 0, within 2e-7 of it: 2^n times a polynomial on half an octave to either side.
// Coefficients are the Taylor series' of 2^f, to the seventh power.
inline Floats exponential(Floats values) {
    const float least = -87.0f;  // what is smaller comes out as this, next to nothing
    values = larger(all(least), values);  // the second of two that do not compare: NaN stays NaN
    Floats scaled = values * 1.44269504088896341f;
    Integers whole = __builtin_convertvector(scaled + (scaled < 0.0f ? all(-0.5f) : all(0.5f)), Integers);
    Floats rounded = __builtin_convertvector(whole, Floats);
    // What is left, times log 2 in two parts, so that nothing is lost by the subtraction.
    Floats rest = (values - rounded * 0.693145751953125f) - rounded * 1.42860682030941723e-6f;
    Floats power = all(1.0f / 5040);
    power = power * rest + 1.0f / 720;
    power = power * rest + 1.0f / 120;
    power = power * rest + 1.0f / 24;
    power = power * rest + 1.0f / 6;
    power = power * rest + 0.5f;
    power = power * rest + 1.0f;
    power = power * rest + 1.0f;
    return power * as<Floats>((whole + 127) << 23);
}

// What a product of matrices steps by: float32 as it is; bfloat16 in pairs where the processor multiplies those,
// widened elsewhere. Sums are float32 always.
template <class T> struct Step {
    typedef Floats Numbers;
    static const int WIDTH = LANES;
    static Numbers read(const T* from) { return load(from); }
    static Floats add(Floats total, Numbers a, Numbers b) { return total + a * b; }
};

#if defined(__AVX512BF16__)
template <> struct Step<Bfloat> {
    typedef __m512bh Numbers;
    static const int WIDTH = 32;
    static Numbers read(const Bfloat* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static Floats add(Floats total, Numbers a, Numbers b) { return (Floats)_mm512_dpbf16_ps((__m512)total, a, b); }
};
#endif

template <class T> inline typename Step<T>::Numbers read_some(const T* from, long count) {
    T padded[Step<T>::WIDTH] = {};
    memcpy(padded, from, count * sizeof(T));
    return Step<T>::read(padded);
}
