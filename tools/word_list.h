// Words that an option collects: each time it occurs, and at each comma.
#ifndef LODE_TOOLS_WORD_LIST_H
#define LODE_TOOLS_WORD_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Starts as {0}; released by word_list_free.
struct word_list {
    char **words; // [n], none is empty
    uint32_t n;
};

// Of an option table: OPTION_CALL with a list as its target. The second takes a name of a file that is there
// as one word, commas or not.
bool word_list_parse(void *list, const char *value, char *reason, size_t capacity);
bool word_list_parse_files(void *list, const char *value, char *reason, size_t capacity);

bool word_list_add(struct word_list *list, const char *word, size_t len); // false: no memory
void word_list_free(struct word_list *list);

#endif
