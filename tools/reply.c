// Showing and keeping generated tokens.
#include "tools/reply.h"

#include "tools/interrupt.h"
#include "tools/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool understands_escapes(void)
{
    const char *terminal = getenv("TERM");
    return isatty(STDOUT_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
}

bool reply_begin(struct reply *reply, size_t capacity, bool show, bool collect)
{
    *reply = (struct reply){.capacity = capacity + 1, .show = show, .collect = collect, .last_shown = '\n'};
    reply->terminal = understands_escapes();
    reply->ids = malloc(reply->capacity * sizeof *reply->ids);
    return reply->ids != NULL;
}

void reply_free(struct reply *reply)
{
    free(reply->ids);
    text_free(&reply->content);
    text_free(&reply->reasoning);
    *reply = (struct reply){0};
}

static void write_out(struct reply *reply, const char *bytes, size_t len)
{
    if (fwrite(bytes, 1, len, stdout) != len)
        reply->failure = errno;
}

static void flush_out(struct reply *reply)
{
    if (fflush(stdout) != 0)
        reply->failure = errno;
}

static void switch_part(struct reply *reply, enum lode_part part)
{
    if (reply->terminal && (part == LODE_PART_REASONING) != (reply->part == LODE_PART_REASONING)) {
        const char *change = part == LODE_PART_REASONING ? "\033[2m" : "\033[0m\n";
        write_out(reply, change, strlen(change));
    }
    reply->part = part;
}

static void show_text(struct reply *reply, enum lode_part part, const char *text, size_t len)
{
    if (part == LODE_PART_REASONING && !reply->terminal)
        return;
    switch_part(reply, part);
    write_out(reply, text, len);
    flush_out(reply);
    reply->last_shown = text[len - 1];
}

static void keep_text(struct reply *reply, enum lode_part part, const char *text, size_t len)
{
    struct text *kept = part == LODE_PART_REASONING ? &reply->reasoning : &reply->content;
    if (!text_append(kept, text, len))
        reply->failure = ENOMEM;
}

bool reply_on_token(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    struct reply *reply = user;
    if (id >= 0 && reply->n_ids < reply->capacity)
        reply->ids[reply->n_ids++] = id;
    if (len && reply->collect)
        keep_text(reply, part, text, len);
    if (len && reply->show)
        show_text(reply, part, text, len);
    return !reply->failure && !interrupt_pending();
}

void reply_finish(struct reply *reply, bool several)
{
    if (!reply->show)
        return;
    switch_part(reply, LODE_PART_CONTENT);
    if (reply->terminal ? reply->last_shown != '\n' : several)
        write_out(reply, "\n", 1);
    flush_out(reply);
}

int reply_tell_failure(const struct reply *reply, const char *command)
{
    if (!reply->failure)
        return EXIT_OK;
    message_note(command, "cannot write the output: %s", strerror(reply->failure));
    clearerr(stdout);
    return EXIT_FAILED;
}
