#include "tests/test_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef LODE_SOURCE_ROOT
#error "the build defines LODE_SOURCE_ROOT, the absolute path of the project"
#endif

void test_project_path(char *out, size_t capacity, const char *name)
{
    snprintf(out, capacity, "%s/%s", LODE_SOURCE_ROOT, name);
}

bool test_data_find(char *out, size_t capacity, const char *name)
{
    snprintf(out, capacity, "%s/tests/data/%s", LODE_SOURCE_ROOT, name);
    if (access(out, R_OK) == 0)
        return true;
    const char *shared = getenv("LODE_TEST_SHARED");
    if (shared)
        snprintf(out, capacity, "%s/%s", shared, name);
    else
        snprintf(out, capacity, "%s/../shared/%s", LODE_SOURCE_ROOT, name);
    return access(out, R_OK) == 0;
}
