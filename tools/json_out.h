// JSON on its way out. jansson refuses text that is not UTF-8 and numbers that are not finite; what a model
// says may be either, so both are made presentable here.
#ifndef LODE_TOOLS_JSON_OUT_H
#define LODE_TOOLS_JSON_OUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

// A string of any bytes; each stretch that is no character becomes U+FFFD.
json_t *json_out_text(const char *bytes, size_t len);

// A number; null where it is infinite or not a number.
json_t *json_out_number(double value);

// Prints the value on one line and releases it. 0, or -1 when it could not be written.
int json_out_print(FILE *stream, json_t *value);

#endif
