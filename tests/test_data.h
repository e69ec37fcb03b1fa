// Where test data lies: small files in the project, large ones in a folder beside it that may be absent.
#ifndef LODE_TEST_DATA_H
#define LODE_TEST_DATA_H

#include <stdbool.h>
#include <stddef.h>

// Writes the path of a data file ("golden/m-31b-q4_0.gguf", "vocab/vectors.txt") into `out` and tells whether
// it is there. Looked for in tests/data of the project, then in $LODE_TEST_SHARED, then in ../shared beside
// the project.
bool test_data_find(char *out, size_t capacity, const char *name);

// Path of a file of the project itself ("models/…").
void test_project_path(char *out, size_t capacity, const char *name);

#endif
