// Splitting at commas.
#include "tools/word_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool word_list_add(struct word_list *list, const char *word, size_t len)
{
    char **words = realloc(list->words, ((size_t)list->n + 1) * sizeof *words);
    if (!words)
        return false;
    list->words = words;
    words[list->n] = strndup(word, len);
    if (!words[list->n])
        return false;
    list->n++;
    return true;
}

void word_list_free(struct word_list *list)
{
    for (uint32_t i = 0; i < list->n; i++)
        free(list->words[i]);
    free(list->words);
    *list = (struct word_list){0};
}

static bool add(struct word_list *list, const char *word, size_t len, char *reason, size_t capacity)
{
    if (len && word_list_add(list, word, len))
        return true;
    snprintf(reason, capacity, len ? "no memory for it" : "there is nothing %s a comma",
             *word == ',' ? "before" : "behind");
    return false;
}

bool word_list_parse(void *target, const char *value, char *reason, size_t capacity)
{
    struct word_list *list = target;
    if (!*value) {
        snprintf(reason, capacity, "must not be empty");
        return false;
    }
    for (;;) {
        const size_t len = strcspn(value, ",");
        if (!add(list, value, len, reason, capacity))
            return false;
        if (!value[len])
            return true;
        value += len + 1;
    }
}

bool word_list_parse_files(void *target, const char *value, char *reason, size_t capacity)
{
    if (*value && strchr(value, ',') && access(value, F_OK) == 0)
        return add(target, value, strlen(value), reason, capacity);
    return word_list_parse(target, value, reason, capacity);
}
