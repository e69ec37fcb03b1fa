// libFuzzer target: whatever the text, it is refused with a message, or it is a profile that passes its
// checks and stays the same when it is written and read again. The first byte chooses between a file and a
// line that describes a machine.
#include "profiles/machine_profile.h"

#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct machine_profile profile, again; // large

static void require_refused(int code, const struct lode_error *error)
{
    REQUIRE(code < 0 && error->code == code && error->text[0]);
    for (const char *at = error->text; *at; at++)
        REQUIRE((*at >= ' ' && *at <= '~') || (unsigned char)*at >= 0x80);
}

static void require_round_trip(void)
{
    struct lode_error error;
    char *text;
    size_t len;
    REQUIRE(machine_profile_check(&profile, "fuzz", &error) == 0);
    REQUIRE(machine_profile_write_text(&text, &len, &profile, "fuzz", &error) == 0);
    REQUIRE(machine_profile_read_text(&again, text, len, "written", &error) == 0);
    REQUIRE(memcmp(&profile, &again, sizeof profile) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lode_error error = {0};
    int code;
    if (size && data[0] == '{') {
        code = machine_profile_read_text(&profile, (const char *)data, size, "fuzz", &error);
    } else {
        char *text = strndup((const char *)data, size);
        REQUIRE(text);
        code = machine_profile_parse(&profile, text, &error);
        free(text);
    }
    if (code)
        require_refused(code, &error);
    else
        require_round_trip();
    return 0;
}
