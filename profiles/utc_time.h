// Moments as files of this program have them: ISO 8601 in UTC, to the second.
#ifndef LODE_UTC_TIME_H
#define LODE_UTC_TIME_H

#include <stdbool.h>

#define UTC_TIME_SIZE 32

void utc_time_now(char out[UTC_TIME_SIZE]); // "2026-01-31T12:34:56Z"
bool utc_time_is(const char *text);         // of that shape

#endif
