// Lines from libedit or from a pipe, joined to turns.
//
// libedit is given a reader of our own: its own one swallows the first interrupted read, and Ctrl-C would do
// nothing before it is pressed twice.
#include "tools/chat_input.h"

#include "tools/interrupt.h"
#include "tools/message.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_LINES = 1000 };

struct chat_input {
    const char *command;
    EditLine *editor; // NULL without a terminal
    History *history;
    HistEvent event;
    char history_path[4096]; // empty: the history is not kept
    const char *prompt;
    char *line; // of getline
    size_t line_capacity;
};

// ---- the history file
// ----------------------------------------------------------------------------------------

// Creates the folders of a path one by one, for us alone: what people ask is their own affair.
static int make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        *slash = '/';
        if (failed)
            return -1;
    }
    return 0;
}

static bool history_place(char *out, size_t capacity)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int len;
    if (state && state[0] == '/') // the specification lets relative paths be ignored
        len = snprintf(out, capacity, "%s/lode/history", state);
    else if (home && home[0] == '/')
        len = snprintf(out, capacity, "%s/.local/state/lode/history", home);
    else
        return false;
    return len > 0 && (size_t)len < capacity;
}

static void load_history(struct chat_input *input)
{
    input->history = history_init();
    if (!input->history)
        return;
    history(input->history, &input->event, H_SETSIZE, HISTORY_LINES);
    history(input->history, &input->event, H_SETUNIQUE, 1);
    el_set(input->editor, EL_HIST, history, input->history);
    if (!history_place(input->history_path, sizeof input->history_path)) {
        input->history_path[0] = 0;
        message_note(input->command, "the history is not kept: neither XDG_STATE_HOME nor HOME is set");
        return;
    }
    if (access(input->history_path, F_OK) == 0)
        history(input->history, &input->event, H_LOAD, input->history_path);
}

static void save_history(struct chat_input *input)
{
    if (!input->history || !input->history_path[0])
        return;
    mode_t mask = umask(077);
    if (make_folders(input->history_path) != 0 ||
        history(input->history, &input->event, H_SAVE, input->history_path) < 0)
        message_note(input->command, "the history could not be written to %s", input->history_path);
    umask(mask);
}

// ---- lines
// ---------------------------------------------------------------------------------------------------

static char *show_prompt(EditLine *editor)
{
    void *input = NULL;
    el_get(editor, EL_CLIENTDATA, &input);
    return (char *)((struct chat_input *)input)->prompt;
}

// Reads one character. -1 on Ctrl-C and on errors, 0 at the end.
static int read_character(EditLine *editor, wchar_t *out)
{
    (void)editor;
    mbstate_t state = {0};
    for (;;) {
        if (!interrupt_wait_readable(STDIN_FILENO))
            return -1;
        char byte;
        ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        size_t used = mbrtowc(out, &byte, 1, &state);
        if (used == (size_t)-2)
            continue;
        if (used != (size_t)-1)
            return 1;
        state = (mbstate_t){0}; // no character: drop it, go on with the next byte
    }
}

static bool open_editor(struct chat_input *input)
{
    // The library converts by the locale; without a UTF-8 one every umlaut would be lost.
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    input->editor = el_init("lode", stdin, stdout, stderr);
    if (!input->editor)
        return false;
    el_set(input->editor, EL_CLIENTDATA, input);
    el_set(input->editor, EL_PROMPT, show_prompt);
    el_set(input->editor, EL_EDITOR, "emacs");
    el_set(input->editor, EL_SIGNAL, 0);
    el_set(input->editor, EL_GETCFN, read_character);
    el_set(input->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    load_history(input);
    return true;
}

static enum chat_input_event interrupted_line(struct chat_input *input)
{
    const LineInfo *typed = el_line(input->editor);
    bool empty = typed->lastchar == typed->buffer;
    fputc('\n', stdout);
    fflush(stdout);
    interrupt_clear();
    return empty && !interrupt_is_final() ? CHAT_INPUT_BORED : CHAT_INPUT_INTERRUPTED;
}

static enum chat_input_event edited_line(struct chat_input *input, const char **out, size_t *out_len)
{
    interrupt_clear(); // of a moment when nothing was there to stop
    el_resize(input->editor);
    el_set(input->editor, EL_PREP_TERM, 1); // before the prompt: a Ctrl-D typed in between would be lost
    int len = 0;
    const char *line = el_gets(input->editor, &len);
    if (interrupt_pending())
        return interrupted_line(input);
    if (!line || len <= 0) {
        fputc('\n', stdout);
        return CHAT_INPUT_END;
    }
    if (len > 1 && input->history)
        history(input->history, &input->event, H_ENTER, line);
    *out = line;
    *out_len = (size_t)len;
    return CHAT_INPUT_TURN;
}

static enum chat_input_event plain_line(struct chat_input *input, const char **out, size_t *out_len)
{
    errno = 0;
    ssize_t len = getline(&input->line, &input->line_capacity, stdin);
    if (len < 0 && interrupt_pending())
        return CHAT_INPUT_INTERRUPTED;
    if (len < 0 && ferror(stdin)) {
        message_note(input->command, "cannot read stdin: %s", strerror(errno));
        return CHAT_INPUT_FAILED;
    }
    if (len < 0)
        return CHAT_INPUT_END;
    *out = input->line;
    *out_len = (size_t)len;
    return CHAT_INPUT_TURN;
}

// A line without its newline.
static enum chat_input_event next_line(struct chat_input *input, bool continued, const char **out,
                                       size_t *out_len)
{
    input->prompt = continued ? ". " : "> ";
    enum chat_input_event event =
        input->editor ? edited_line(input, out, out_len) : plain_line(input, out, out_len);
    if (event == CHAT_INPUT_TURN && *out_len && (*out)[*out_len - 1] == '\n')
        --*out_len;
    return event;
}

// ---- turns
// ---------------------------------------------------------------------------------------------------

static const char quotes[] = "\"\"\"";
enum { QUOTES = 3 };

static bool append_line(struct chat_input *input, struct text *out, const char *line, size_t len)
{
    if (text_append(out, line, len))
        return true;
    message_note(input->command, "not enough memory for this turn");
    return false;
}

static bool ends_block(const char *line, size_t len)
{
    return len >= QUOTES && memcmp(line + len - QUOTES, quotes, QUOTES) == 0;
}

// Goes on to the next line of a turn. True: there is none, and *event says how the turn ends; an unclosed one
// is a turn all the same.
static bool turn_is_over(struct chat_input *input, const char **line, size_t *len,
                         enum chat_input_event *event)
{
    *event = next_line(input, true, line, len);
    if (*event == CHAT_INPUT_TURN)
        return false;
    if (*event == CHAT_INPUT_END)
        *event = CHAT_INPUT_TURN;
    else if (*event == CHAT_INPUT_BORED)
        *event = CHAT_INPUT_INTERRUPTED;
    return true;
}

// `line` is what followed the opening quotes. Quotes on a line of their own belong to no line of the text.
static enum chat_input_event read_block(struct chat_input *input, struct text *out, const char *line,
                                        size_t len)
{
    enum chat_input_event event;
    bool first = true;
    while (!ends_block(line, len)) {
        bool alone = first && len == 0;
        if (!alone && (!append_line(input, out, line, len) || !append_line(input, out, "\n", 1)))
            return CHAT_INPUT_FAILED;
        first = false;
        if (turn_is_over(input, &line, &len, &event))
            return event;
    }
    if (len == QUOTES && out->len)
        out->bytes[--out->len] = 0;
    return append_line(input, out, line, len - QUOTES) ? CHAT_INPUT_TURN : CHAT_INPUT_FAILED;
}

static enum chat_input_event read_continued(struct chat_input *input, struct text *out, const char *line,
                                            size_t len)
{
    enum chat_input_event event;
    while (len && line[len - 1] == '\\') {
        if (!append_line(input, out, line, len - 1) || !append_line(input, out, "\n", 1))
            return CHAT_INPUT_FAILED;
        if (turn_is_over(input, &line, &len, &event))
            return event;
    }
    return append_line(input, out, line, len) ? CHAT_INPUT_TURN : CHAT_INPUT_FAILED;
}

enum chat_input_event chat_input_next(struct chat_input *input, struct text *out, bool *out_literal)
{
    text_clear(out);
    const char *line = NULL;
    size_t len = 0;
    enum chat_input_event event = next_line(input, false, &line, &len);
    *out_literal = false;
    if (event != CHAT_INPUT_TURN)
        return event;
    if (len < QUOTES || memcmp(line, quotes, QUOTES) != 0)
        return read_continued(input, out, line, len);
    *out_literal = true;
    return read_block(input, out, line + QUOTES, len - QUOTES);
}

// ---- opening and closing
// -------------------------------------------------------------------------------------

int chat_input_open(struct chat_input **out, const char *command, struct lode_error *error)
{
    *out = NULL;
    struct chat_input *input = calloc(1, sizeof *input);
    if (!input)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the line editor");
    input->command = command;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !open_editor(input)) {
        free(input);
        return lode_fail(error, LODE_ERR_MEMORY, "the line editor could not be started");
    }
    *out = input;
    return LODE_OK;
}

void chat_input_close(struct chat_input *input)
{
    if (!input)
        return;
    save_history(input);
    if (input->history)
        history_end(input->history);
    if (input->editor)
        el_end(input->editor);
    free(input->line);
    free(input);
}

bool chat_input_is_terminal(const struct chat_input *input)
{
    return input->editor != NULL;
}
