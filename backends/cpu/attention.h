// Sizes of the scratch that attention needs; vector.c makes it.
#ifndef LODE_CPU_ATTENTION_H
#define LODE_CPU_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

// Of each thread. It serves RoPE's table of sines and cosines, too.
size_t cpu_attention_thread_floats(uint32_t head_size);

// Of the partial results of key chunks, for calls up to these sizes.
size_t cpu_attention_partial_floats(uint32_t rows, uint32_t n_heads, uint32_t head_size);

#endif
