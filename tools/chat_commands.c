// /help, /think, /system, /clear, /stats, /save, /quit. What they say goes to stderr: stdout belongs to the
// answers.
#include "tools/chat_commands.h"

#include "tools/message.h"
#include "tools/options.h"
#include "tools/report.h"

#include <stdio.h>
#include <string.h>

static const char command[] = "lode chat";

struct chat_verb {
    const char *name;
    bool (*run)(struct chat *chat, const char *argument); // false: the chat is over
};

static const char help[] =
    "/think on|off   let the model think before it answers\n"
    "/system TEXT    instructions for the model; without TEXT there are none\n"
    "/clear          forget the conversation\n"
    "/stats          tokens, speed, memory\n"
    "/save FILE      write the conversation as JSON\n"
    "/quit           leave (Ctrl-D too)\n"
    "A trailing \\ continues a turn in the next line; a line that begins with \"\"\" opens a\n"
    "block that a line ending in \"\"\" closes. Ctrl-C stops an answer.\n";

bool chat_is_terminal(const struct chat *chat)
{
    return chat_input_is_terminal(chat->input);
}

// A command that cannot be carried out is a failure only of a script, which cannot see the message.
static bool refuse(struct chat *chat, const char *text)
{
    message_note(command, "%s", text);
    chat->failed = true;
    return true;
}

static bool verb_help(struct chat *chat, const char *argument)
{
    (void)chat, (void)argument;
    fputs(help, stderr);
    return true;
}

static bool verb_think(struct chat *chat, const char *argument)
{
    if (strcmp(argument, "on") != 0 && strcmp(argument, "off") != 0)
        return refuse(chat, "/think takes on or off");
    chat->think = strcmp(argument, "on") == 0;
    return true;
}

static bool verb_system(struct chat *chat, const char *argument)
{
    struct lode_error error;
    if (conversation_set_system(&chat->conversation, argument, &error))
        return refuse(chat, error.text);
    return true;
}

static bool verb_clear(struct chat *chat, const char *argument)
{
    (void)argument;
    conversation_clear(&chat->conversation);
    return true;
}

static bool verb_stats(struct chat *chat, const char *argument)
{
    (void)argument;
    const struct report report = {.model_path = chat->model.path,
                                  .engine = chat->engine,
                                  .session = chat->session,
                                  .seed = chat->sampling.sampling.seed,
                                  .stop = chat->stop,
                                  .prediction = &chat->plan.prediction};
    report_line(command, &report);
    message_note(command, "%zu turns, %u of %u tokens of the context",
                 conversation_turns(&chat->conversation), lode_session_position(chat->session),
                 lode_session_context(chat->session));
    return true;
}

static bool verb_save(struct chat *chat, const char *argument)
{
    struct lode_error error;
    if (!argument[0])
        return refuse(chat, "/save needs the name of a file");
    if (conversation_save(&chat->conversation, argument, &error))
        return refuse(chat, error.text);
    message_note(command, "saved to %s", argument);
    return true;
}

static bool verb_quit(struct chat *chat, const char *argument)
{
    (void)chat, (void)argument;
    return false;
}

static const struct chat_verb verbs[] = {
    {"/help", verb_help},   {"/think", verb_think}, {"/system", verb_system}, {"/clear", verb_clear},
    {"/stats", verb_stats}, {"/save", verb_save},   {"/quit", verb_quit},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static bool unknown(struct chat *chat, const char *word)
{
    const char *names[N_VERBS];
    for (size_t i = 0; i < N_VERBS; i++)
        names[i] = verbs[i].name;
    const char *closest = options_closest(word, names, N_VERBS);
    char text[256];
    if (closest)
        snprintf(text, sizeof text, "unknown command %s; did you mean %s?", word, closest);
    else
        snprintf(text, sizeof text,
                 "unknown command %s; /help tells them (a turn that begins with / goes in \"\"\")", word);
    return refuse(chat, text);
}

bool chat_command(struct chat *chat, const char *line)
{
    char word[64];
    size_t len = strcspn(line, " \t\r\n");
    snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word - 1), line);
    const char *argument = line + len + strspn(line + len, " \t\r\n");
    for (size_t i = 0; i < N_VERBS; i++)
        if (strcmp(verbs[i].name, word) == 0)
            return verbs[i].run(chat, argument);
    return unknown(chat, word);
}
