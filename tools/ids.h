// Lists of token ids as text: `1,2,3`.
#ifndef LODE_TOOLS_IDS_H
#define LODE_TOOLS_IDS_H

#include "core/lode.h"
#include "tools/text.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// Reads ids separated by commas, spaces or newlines, each in [0, vocab). *out_ids is malloc'ed, the caller
// frees it.
int ids_parse(int32_t **out_ids, size_t *out_count, const struct text *text, uint32_t vocab,
              struct lode_error *error);

void ids_print(FILE *stream, const int32_t *ids, size_t count); // one line
json_t *ids_json(const int32_t *ids, size_t count);

#endif
