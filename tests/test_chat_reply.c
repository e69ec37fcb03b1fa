// A model's reply to a message: as models write them, broken ones too, at once and token by token, and what
// was rendered read back.
#include "core/chat.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define Q "<|\"|>"
#define CALLED                                                                                               \
    "<|tool_call>call:get_weather{city:" Q "Oslo" Q ",days:[1,2],opt:{a:true,b:null,c:1.5},unit:" Q "C" Q    \
    "}<tool_call|><|tool_call>call:noargs{}<tool_call|>"

static json_t *parse(const char *reply, size_t len, bool starts_thinking)
{
    char *json = NULL;
    struct lode_error error = {0};
    cr_assert_eq(chat_parse(&json, reply, len, starts_thinking, &error), 0, "%s", error.text);
    json_t *message = json_loads(json, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(message, "no JSON: %s", json);
    free(json);
    return message;
}

// `expected` is the message without its role.
static void expect_parsed(const char *reply, bool starts_thinking, const char *expected)
{
    json_t *message = parse(reply, strlen(reply), starts_thinking), *wanted = json_loads(expected, 0, NULL);
    cr_assert_not_null(wanted);
    cr_assert_str_eq(json_string_value(json_object_get(message, "role")), "assistant");
    json_object_del(message, "role");
    char *got = json_dumps(message, JSON_COMPACT);
    cr_assert(json_equal(message, wanted), "'%s' became %s instead of %s", reply, got, expected);
    free(got);
    json_decref(message);
    json_decref(wanted);
}

Test(chat_parse, tells_reasoning_and_content_apart)
{
    expect_parsed("Hello <b>.", false, "{\"content\":\"Hello <b>.\"}");
    expect_parsed("<|channel>thought\nHm.\n<channel|>Hi<turn|>", false,
                  "{\"reasoning\":\"Hm.\",\"content\":\"Hi\"}");
    expect_parsed("Hm.\n\n<channel|>Hi<turn|>\n", true, "{\"reasoning\":\"Hm.\",\"content\":\"Hi\"}");
    expect_parsed("<|channel>thought\n<channel|>Hi", false, "{\"content\":\"Hi\"}");
    expect_parsed("", false, "{}");
    expect_parsed("<eos>", false, "{}");
    expect_parsed("  ", false, "{\"content\":\"  \"}");
}

Test(chat_parse, tolerates_what_models_forget_and_repeat)
{
    expect_parsed("<|channel>thought\nHm", false, "{\"reasoning\":\"Hm\"}");
    expect_parsed("Hi<channel|>", false, "{\"content\":\"Hi\"}");
    expect_parsed("Hi<|channel>thought\n<channel|>", false, "{\"content\":\"Hi\"}");
    expect_parsed("<|channel>thought\n<|channel>thought\nHm.<channel|>Hi", false,
                  "{\"reasoning\":\"Hm.\",\"content\":\"Hi\"}");
    expect_parsed("<|channel>thought\nA\n<channel|><|channel>thought\nB\n<channel|>C", false,
                  "{\"reasoning\":\"A\\nB\",\"content\":\"C\"}");
    expect_parsed("A<|channel>thought\n<channel|>", true, "{\"reasoning\":\"A\"}");
    expect_parsed("<|channel>thou", false, "{}");
    expect_parsed("<|channel>though<channel|>x", false, "{\"content\":\"x\"}");
    expect_parsed("<|channel>thoughts\n<channel|>x", false, "{\"reasoning\":\"thoughts\",\"content\":\"x\"}");
    expect_parsed("<|channel>final\nHm<channel|>x", false,
                  "{\"reasoning\":\"final\\nHm\",\"content\":\"x\"}");
    expect_parsed("Hi<tool_call|>", false, "{\"content\":\"Hi\"}");
    expect_parsed("Hi<turn|>\n<|turn>user\nmore", false, "{\"content\":\"Hi\"}");
    expect_parsed("Hi <turn <|channel <|think|>", false, "{\"content\":\"Hi <turn <|channel <|think|>\"}");
}

#define F(arguments) "{\"tool_calls\":[{\"name\":\"f\",\"arguments\":" arguments "}]}"

Test(chat_parse, reads_calls)
{
    expect_parsed("<|tool_call>call:f{}<tool_call|>", false, F("{}"));
    expect_parsed("<|channel>thought\nHm.\n<channel|>OK." CALLED "<|tool_response>", false,
                  "{\"reasoning\":\"Hm.\",\"content\":\"OK.\",\"tool_calls\":[{\"name\":\"get_weather\","
                  "\"arguments\":{\"city\":"
                  "\"Oslo\",\"days\":[1,2],\"opt\":{\"a\":true,\"b\":null,\"c\":1.5},\"unit\":\"C\"}},{"
                  "\"name\":\"noargs\","
                  "\"arguments\":{}}]}");
    expect_parsed("<|tool_call>call:f{ a : 1, b: " Q "x" Q " ,c:[ 1 , [] ],d:{ } }<tool_call|>\n", false,
                  F("{\"a\":1,\"b\":\"x\",\"c\":[1,[]],\"d\":{}}"));
    expect_parsed("<|tool_call>call:f{a:-1.5e3,b:12345678901234567890,c:false}<tool_call|>", false,
                  F("{\"a\":-1500.0,\"b\":12345678901234567890.0,\"c\":false}"));
    expect_parsed("<|tool_call>call:f{" Q "a b" Q ":1," Q "x:y" Q ":2}<tool_call|>", false,
                  F("{\"a b\":1,\"x:y\":2}"));
    expect_parsed("<|tool_call>call:f{a:" Q "}<tool_call|>,{\n" Q "}<tool_call|>", false,
                  F("{\"a\":\"}<tool_call|>,{\\n\"}"));
}

Test(chat_parse, mends_broken_calls)
{
    expect_parsed("<|tool_call>call:f{a:1}<tool_call|><tool_call|>", false, F("{\"a\":1}"));
    expect_parsed("<|tool_call>call:f{a:1}<turn|>", false, F("{\"a\":1}"));
    expect_parsed("<|tool_call>call:f{a:1}", false, F("{\"a\":1}"));
    expect_parsed("<|tool_call>call:f{a:[1,{b:2", false, F("{\"a\":[1,{\"b\":2}]}"));
    expect_parsed("<|tool_call>call:f{a:1}}<tool_call|>", false, F("{\"a\":1}"));
    expect_parsed("<|tool_call>call:f{a:1,}<tool_call|>", false, F("{\"a\":1}"));
    expect_parsed("<|tool_call>call:f{a:" Q "Oslo<tool_call|>", false, F("{\"a\":\"Oslo\"}"));
    expect_parsed("<|tool_call>call:f{a:" Q "Oslo}<tool_call|>", false, F("{\"a\":\"Oslo\"}"));
    expect_parsed("<|tool_call>call:f{o:{a:[" Q "x}]}}<turn|>", false, F("{\"o\":{\"a\":[\"x}\"]}}"));
    expect_parsed("<|tool_call>call:f{a:'it's',b:'x'}<tool_call|>", false, F("{\"a\":\"it's\",\"b\":\"x\"}"));
    expect_parsed("<|tool_call>call:f{\"a\":\"x\\n\\\"y\",'b':2}<tool_call|>", false,
                  F("{\"a\":\"x\\n\\\"y\",\"b\":2}"));
    expect_parsed("<|tool_call>call:f{a:\"open}<tool_call|>", false, F("{\"a\":\"open\"}"));
    expect_parsed("<|tool_call>call:f{a:New York,b:True,c:None}<tool_call|>", false,
                  F("{\"a\":\"New York\",\"b\":true,\"c\":null}"));
    expect_parsed("<|tool_call>call:f<tool_call|>", false, F("{}"));
    expect_parsed("<|tool_call>call:f{a:1} then.", false,
                  "{\"content\":\" then.\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":{\"a\":1}}]}");
    expect_parsed("<|channel>thought\nHm <|tool_call>call:f{a:1}<tool_call|>", false,
                  "{\"reasoning\":\"Hm\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":{\"a\":1}}]}");
    expect_parsed("<|tool_call>call:f{a:" Q "x}<tool_call|><|tool_call>call:g{b:" Q "y" Q "}<tool_call|>",
                  false,
                  "{\"tool_calls\":[{\"name\":\"f\",\"arguments\":{\"a\":\"x\"}},{\"name\":\"g\","
                  "\"arguments\":{\"b\":\"y\"}}]}");
}

Test(chat_parse, shows_what_is_no_call_as_content)
{
    expect_parsed("<|tool_call>hello<tool_call|>!", false,
                  "{\"content\":\"<|tool_call>hello<tool_call|>!\"}");
    expect_parsed("<|tool_call>call:{a:1}<tool_call|>", false,
                  "{\"content\":\"<|tool_call>call:{a:1}<tool_call|>\"}");
    expect_parsed("<|tool_call>call:f{a}<tool_call|>x", false,
                  "{\"content\":\"<|tool_call>call:f{a}<tool_call|>x\"}");
    char deep[2000] = "<|tool_call>call:f{a:";
    memset(deep + strlen(deep), '[', 1000);
    json_t *message = parse(deep, strlen(deep), false);
    cr_assert_str_eq(json_string_value(json_object_get(message, "content")), deep);
    json_decref(message);
}

Test(chat_parse, replaces_invalid_utf8_and_keeps_zero_bytes)
{
    json_t *message = parse("a\xff\0\xe2\x82z", 6, false);
    const json_t *content = json_object_get(message, "content");
    cr_assert_eq(json_string_length(content), 12);
    cr_assert_eq(memcmp(json_string_value(content), "a\xef\xbf\xbd\0\xef\xbf\xbd\xef\xbf\xbdz", 12), 0);
    json_decref(message);
}

// ---- both ways ----

static unsigned random_below(unsigned n)
{
    static uint64_t state = 7;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % n;
}

static json_t *random_text(void)
{
    static const char *const words[] = {"x", " ",     "\n", "a}b", ",",  "'",      "\"", "<tool_call|>",
                                        "é", "{c:1}", "<",  "]",   "\\", "thought"};
    char text[128] = "";
    for (unsigned n = random_below(5); n > 0; n--)
        strcat(text, words[random_below(sizeof words / sizeof *words)]);
    return json_string(text);
}

static json_t *random_value(unsigned depth)
{
    static const char *const keys[] = {"a", "B", "b", "long key", "_", "é", "x.y"};
    json_t *value;
    switch (random_below(depth < 4 ? 8 : 6)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(random_below(2));
    case 2:
        return json_integer((json_int_t)random_below(1u << 31) * (json_int_t)random_below(1000) - 500);
    case 3:
        return json_real((random_below(2000001) - 1e6) / (1 + random_below(1000)) *
                         (random_below(2) ? 1e-9 : 1e12));
    case 6:
        value = json_array();
        for (unsigned n = random_below(4); n > 0; n--)
            json_array_append_new(value, random_value(depth + 1));
        return value;
    case 7:
        value = json_object();
        for (unsigned n = random_below(4); n > 0; n--)
            json_object_set_new(value, keys[random_below(7)], random_value(depth + 1));
        return value;
    default:
        return random_text();
    }
}

static json_t *random_arguments(void)
{
    json_t *value = random_value(0);
    while (!json_is_object(value)) {
        json_decref(value);
        value = random_value(0);
    }
    return value;
}

Test(chat_parse, reads_back_what_was_rendered)
{
    for (int round = 0; round < 500; round++) {
        json_t *calls = json_array();
        for (unsigned n = 1 + random_below(3); n > 0; n--)
            json_array_append_new(calls, json_pack("{s:s,s:o}", "name", random_below(2) ? "f" : "get_x",
                                                   "arguments", random_arguments()));
        json_t *message =
            json_pack("{s:s,s:s,s:o}", "role", "assistant", "reasoning", "r <b>\nr", "tool_calls", calls);
        json_t *conversation = json_pack("{s:[o]}", "messages", message);
        char *json = json_dumps(conversation, 0);
        struct chat_text text;
        struct lode_error error;
        const struct lode_chat_options options = {.add_generation_prompt = true};
        cr_assert_eq(chat_render(&text, json, &options, &error), 0, "%s", error.text);
        const char *reply = strstr(text.text, "<|turn>model\n") + strlen("<|turn>model\n");
        json_t *parsed = parse(reply, strlen(reply), false);
        cr_assert(json_equal(parsed, message), "%s", text.text);
        json_decref(parsed);
        json_decref(conversation);
        free(json);
        chat_text_free(&text);
    }
}

// ---- live replies ----

struct heard {
    char text[3][4096];
    size_t len[3];
};

static const char *const special_tokens[] = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", Q,
                                             "<turn|>",    "<eos>"};

static size_t special_at(const char *text)
{
    for (size_t i = 0; i < sizeof special_tokens / sizeof *special_tokens; i++)
        if (!strncmp(text, special_tokens[i], strlen(special_tokens[i])))
            return strlen(special_tokens[i]);
    return 0;
}

// Feeds a reply in pieces of up to `longest` bytes.
static void hear(struct heard *heard, const char *reply, bool starts_thinking, unsigned longest)
{
    struct chat_stream stream;
    memset(heard, 0, sizeof *heard);
    memset(&stream, 0xa5, sizeof stream);
    chat_stream_begin(&stream, starts_thinking);
    while (*reply) {
        size_t special = special_at(reply), len = special ? special : 1, shown;
        unsigned wanted = 1 + random_below(longest);
        while (!special && len < wanted && reply[len] && !special_at(reply + len))
            len++;
        enum lode_part part;
        const char *text;
        char *piece = malloc(len); // so that a read beyond it is found
        memcpy(piece, reply, len);
        chat_stream_push(&stream, piece, len, special > 0, &part, &text, &shown);
        cr_assert_leq(shown, len + CHAT_STREAM_HELD_BYTES);
        memcpy(heard->text[part] + heard->len[part], text, shown);
        heard->len[part] += shown;
        free(piece);
        reply += len;
    }
}

static void expect_heard(const char *reply, bool starts_thinking, const char *content, const char *reasoning,
                         const char *call)
{
    const char *expected[3] = {
        [LODE_PART_CONTENT] = content, [LODE_PART_REASONING] = reasoning, [LODE_PART_TOOL_CALL] = call};
    for (unsigned longest = 1; longest <= 20; longest++) {
        struct heard heard;
        hear(&heard, reply, starts_thinking, longest);
        for (int part = 0; part < 3; part++)
            cr_assert_str_eq(heard.text[part], expected[part], "part %d of '%s', pieces up to %u", part,
                             reply, longest);
    }
}

Test(chat_stream, tells_the_parts_apart)
{
    expect_heard("Hello.<turn|>", false, "Hello.", "", "");
    expect_heard("<|channel>thought\nHm.\n<channel|>Hi<turn|>", false, "Hi", "Hm.\n", "");
    expect_heard("thought\nHm.<channel|>Hi", true, "Hi", "thought\nHm.", "");
    expect_heard("OK.<|tool_call>call:f{a:" Q "x" Q "}<tool_call|>", false, "OK.", "",
                 "call:f{a:" Q "x" Q "}");
    expect_heard("Hm<|tool_call>call:f{}<tool_call|>x", true, "x", "Hm", "call:f{}");
    expect_heard("Hi<channel|><tool_call|> there", false, "Hi there", "", "");
    expect_heard("A<tool_call|>B", true, "", "AB", "");
}

Test(chat_stream, holds_the_lead_of_a_channel_back_until_it_is_decided)
{
    expect_heard("<|channel>thought\n<channel|>Hi", false, "Hi", "", "");
    expect_heard("<|channel>thought<channel|>Hi", false, "Hi", "", "");
    expect_heard("<|channel>thou", false, "", "", "");
    expect_heard("<|channel>thoughts\nx<channel|>", false, "", "thoughts\nx", "");
    expect_heard("<|channel>this<channel|>", false, "", "this", "");
    expect_heard("<|channel>final\nx", false, "", "final\nx", "");
    expect_heard("<|channel>thought\nthought\nx", false, "", "thought\nx", "");
    expect_heard("<|channel>thought\nA<channel|>B<|channel>thought\nC<channel|>D", false, "BD", "AC", "");
}

Test(chat_stream, loses_no_more_than_the_held_bytes_of_an_absurd_piece)
{
    static char piece[5000];
    memset(piece, 'x', sizeof piece);
    struct chat_stream stream;
    enum lode_part part;
    const char *text;
    size_t len;
    chat_stream_begin(&stream, false);
    chat_stream_push(&stream, "<|channel>", 10, true, &part, &text, &len);
    chat_stream_push(&stream, "thou", 4, false, &part, &text, &len);
    cr_assert_eq(len, 0);
    chat_stream_push(&stream, piece, sizeof piece, false, &part, &text, &len);
    cr_assert(part == LODE_PART_REASONING && text == piece && len == sizeof piece);
    chat_stream_push(&stream, "<turn|>", 7, true, &part, &text, &len);
    cr_assert_eq(len, 0);
    chat_stream_push(&stream, "", 0, false, &part, &text, &len);
    cr_assert_eq(len, 0);
}

// Whatever a model writes: parsing never fails, and both see the same content.
Test(chat_stream, agrees_with_the_parser_on_odd_replies)
{
    static const char *const fragments[] = {"<|channel>",
                                            "<channel|>",
                                            "<tool_call|>",
                                            "thought\n",
                                            "thought",
                                            "tho",
                                            "Hm.",
                                            "x y",
                                            "\n",
                                            "call:f{a:1}",
                                            "{",
                                            "}",
                                            Q,
                                            "call:",
                                            "'",
                                            "a:",
                                            ",",
                                            "[",
                                            "\"",
                                            "é"};
    for (int round = 0; round < 3000; round++) {
        char reply[1024] = "";
        bool has_call = random_below(3) == 0;
        for (unsigned n = random_below(14); n > 0; n--)
            strcat(reply, has_call && random_below(4) == 0 ? "<|tool_call>" : fragments[random_below(20)]);
        const bool starts_thinking = random_below(2);
        struct heard heard;
        hear(&heard, reply, starts_thinking, 1 + random_below(12));
        json_t *message = parse(reply, strlen(reply), starts_thinking);
        const char *content = json_string_value(json_object_get(message, "content"));
        if (!strstr(reply, "<|tool_call>")) { // a broken call is a call to the stream, content to the parser
            cr_assert_eq(strspn(heard.text[0], " \n") == heard.len[0] ||
                             (content && !strcmp(content, heard.text[0])),
                         1, "'%s': '%s' and '%s'", reply, content ? content : "", heard.text[0]);
            cr_assert(!content || !strcmp(content, heard.text[0]));
        }
        json_decref(message);
    }
}
