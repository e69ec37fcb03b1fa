#include "tests/profile_checks.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

char *profile_written(const struct machine_profile *from)
{
    struct lode_error error = {0};
    char *text;
    size_t len;
    cr_assert_eq(machine_profile_write_text(&text, &len, from, "written", &error), 0, "%s", error.text);
    cr_assert_eq(strlen(text), len);
    return text;
}

void profile_expect_same_after_writing(const struct machine_profile *from)
{
    static struct machine_profile second; // large
    struct lode_error error = {0};
    char *text = profile_written(from);
    cr_assert_eq(machine_profile_read_text(&second, text, strlen(text), "written", &error), 0, "%s",
                 error.text);
    cr_assert_eq(memcmp(from, &second, sizeof second), 0, "%s", text);
    free(text);
}
