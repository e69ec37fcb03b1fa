// See test_folder.h.
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

void test_folder_make(char out[TEST_FOLDER_SIZE], const char *parent)
{
    snprintf(out, TEST_FOLDER_SIZE, "%s/lode-test-XXXXXX", parent ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(out), "%s", out);
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about, (void)kind, (void)place;
    return remove(path);
}

void test_folder_remove(const char *folder)
{
    cr_assert_eq(nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0, "%s", folder);
}
