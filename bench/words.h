// Choosing lines by words in them, for the laboratories' --filter.
#ifndef LODE_BENCH_WORDS_H
#define LODE_BENCH_WORDS_H

#include <stdbool.h>

// All words of the filter are in the line, none as a part of a longer one; of words with commas between them,
// one is.
bool words_match(const char *line, const char *filter);

#endif
