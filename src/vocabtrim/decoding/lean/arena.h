// Memory that a thread keeps from call to call, since fresh pages cost more than most of what is done with them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

class Arena {
    struct Block {
        char* start;
        size_t size;
    };
    static const int MOST = 20;
    Block blocks[MOST] = {};
    int used = 0;

  public:
    ~Arena() {
        for (Block& block : blocks) free(block.start);
    }

    // What was taken may be overwritten from now on.
    void reuse() { used = 0; }

    // Room for `count` things, with what was there before in it. Throws where there is no memory.
    template <class T> T* take(int64_t count) {
        Block& block = blocks[used++];
        const size_t size = (count * sizeof(T) + 64) / 64 * 64;
        if (block.size < size) {
            free(block.start);
            block.start = (char*)aligned_alloc(64, size);
            block.size = block.start ? size : 0;
            if (!block.start) throw std::bad_alloc();
        }
        return (T*)block.start;
    }
};
