#include "profiles/utc_time.h"

#include <string.h>
#include <time.h>

void utc_time_now(char out[UTC_TIME_SIZE])
{
    const time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(out, UTC_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

bool utc_time_is(const char *text)
{
    static const char pattern[] = "0000-00-00T00:00:00Z";
    if (strlen(text) != strlen(pattern))
        return false;
    for (size_t i = 0; pattern[i]; i++)
        if (pattern[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != pattern[i])
            return false;
    return true;
}
