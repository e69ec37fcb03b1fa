// Conversations rendered: the texts byte for byte, as the reference template makes them.
#include "core/chat.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define Q "<|\"|>"

enum { THINKING = 1, LARGE = 2, PRESERVE = 4, NO_PROMPT = 8 };

static struct lode_chat_options options_of(unsigned flags)
{
    return (struct lode_chat_options){.thinking = flags & THINKING,
                                      .empty_thought = flags & LARGE,
                                      .preserve_thinking = flags & PRESERVE,
                                      .add_generation_prompt = !(flags & NO_PROMPT)};
}

static struct chat_text render(const char *json, unsigned flags)
{
    struct chat_text text;
    struct lode_error error = {0};
    struct lode_chat_options options = options_of(flags);
    cr_assert_eq(chat_render(&text, json, &options, &error), 0, "%s", error.text);
    return text;
}

static void expect_text(const char *json, unsigned flags, const char *expected)
{
    struct chat_text text = render(json, flags);
    cr_assert_eq(strcmp(text.text, expected), 0, "rendered:\n%s\nexpected:\n%s", text.text, expected);
    cr_assert_eq(text.len, strlen(expected));
    chat_text_free(&text);
}

static void expect_error(const char *json, const char *says)
{
    struct chat_text text = {.len = 7};
    struct lode_error error = {0};
    struct lode_chat_options options = {0};
    cr_assert_eq(chat_render(&text, json, &options, &error), LODE_ERR_ARGUMENT, "%s", json);
    cr_assert_null(text.text);
    cr_assert_not_null(strstr(error.text, says), "'%s' does not say '%s'", error.text, says);
}

#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define CONVERSATION(messages) "{\"messages\":[" messages "]}"

// ---- turns ----

Test(chat, renders_a_plain_turn)
{
    const char *hi = CONVERSATION(USER(" Hi "));
    expect_text(hi, 0, "<bos><|turn>user\nHi<turn|>\n<|turn>model\n");
    expect_text(hi, LARGE, "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>");
    expect_text(hi, NO_PROMPT | LARGE, "<bos><|turn>user\nHi<turn|>\n");
    const char *thinking = "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n";
    expect_text(hi, THINKING, thinking);
    expect_text(hi, THINKING | LARGE, thinking);
}

Test(chat, puts_the_system_message_first)
{
    const char *expected = "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n";
    expect_text(CONVERSATION("{\"role\":\"system\",\"content\":\" Be brief.\\n\"}," USER("Hi")), 0, expected);
    expect_text(CONVERSATION("{\"role\":\"developer\",\"content\":\"Be brief.\"}," USER("Hi")), 0, expected);
    expect_text(CONVERSATION("{\"role\":\"system\",\"content\":\"Be brief.\"}," USER("Hi")), THINKING,
                "<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n");
    expect_text(CONVERSATION("{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\" a \"},"
                             "{\"type\":\"text\",\"text\":\"b\"}]}," USER("Hi")),
                0, "<bos><|turn>system\na b <turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n");
    expect_text(
        CONVERSATION(
            USER("Hi") ",{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"developer\",\"content\":\"D\"}"),
        0,
        "<bos><|turn>user\nHi<turn|>\n<|turn>system\nS<turn|>\n<|turn>developer\nD<turn|>\n<|turn>model\n");
}

Test(chat, drops_earlier_thoughts_from_the_history)
{
    const char *expected =
        "<bos><|turn>user\nHi<turn|>\n<|turn>model\nHello!<turn|>\n<|turn>user\nBye<turn|>\n<|turn>model\n"
        "<|channel>thought\n<channel|>";
    expect_text(CONVERSATION(USER("Hi") ",{\"role\":\"assistant\",\"content\":\"Hello!\"}," USER("Bye")),
                LARGE, expected);
    expect_text(
        CONVERSATION(USER("Hi") ",{\"role\":\"assistant\",\"content\":"
                                "\"<|channel>thought\\nHm.\\n<channel|>Hel<channel|>lo! <|channel>cut off\","
                                "\"reasoning\":\"Hm.\"}," USER("Bye")),
        LARGE, expected);
}

Test(chat, joins_consecutive_assistant_messages)
{
    expect_text(
        CONVERSATION(USER(
            "Hi") ",{\"role\":\"assistant\",\"content\":\"A\"},{\"role\":\"model\",\"content\":\" B \"}"),
        0, "<bos><|turn>user\nHi<turn|>\n<|turn>model\nAB<turn|>\n<|turn>model\n");
}

Test(chat, puts_placeholders_for_media)
{
    expect_text(CONVERSATION("{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\","
                             "\"text\":\" Describe \"},"
                             "{\"type\":\"audio\"},{\"type\":\"video\"}]}"),
                0, "<bos><|turn>user\n<|image|>Describe<|audio|><|video|><turn|>\n<|turn>model\n");
    expect_text(
        CONVERSATION("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}},"
                     "{\"type\":\"input_audio\"}]}"),
        0, "<bos><|turn>user\n<|image|><|audio|><turn|>\n<|turn>model\n");
}

Test(chat, trims_unicode_white_space_and_keeps_zero_bytes)
{
    expect_text(CONVERSATION(USER("\\u00a0\\u3000\\u2028\\u001c é \\u200b\\u205f\\u0085\\t")), NO_PROMPT,
                "<bos><|turn>user\né \xe2\x80\x8b<turn|>\n");
    struct chat_text text = render(CONVERSATION(USER("a\\u0000b")), NO_PROMPT);
    cr_assert_eq(text.len, sizeof "<bos><|turn>user\na\0b<turn|>\n" - 1);
    cr_assert_eq(memcmp(text.text, "<bos><|turn>user\na\0b<turn|>\n", text.len), 0);
    chat_text_free(&text);
}

// ---- tools ----

#define WEATHER_TOOLS                                                                                        \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"Get the "    \
    "weather.\","                                                                                            \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"unit\":{\"type\":\"string\",\"enum\":[\"C\","     \
    "\"F\"]},"                                                                                               \
    "\"city\":{\"type\":\"string\",\"description\":\"City name\",\"default\":\"Oslo\"},"                     \
    "\"days\":{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"description\":\"day\"}},"                \
    "\"opt\":{\"type\":\"object\",\"description\":\"o\",\"properties\":{\"a\":{\"type\":\"boolean\","        \
    "\"nullable\":true}},\"required\":[\"a\"]}},\"required\":[\"city\"]}}},"                                 \
    "{\"type\":\"function\",\"function\":{\"name\":\"noargs\",\"description\":\"Nothing.\","                 \
    "\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]"

Test(chat, declares_tools)
{
    expect_text("{\"messages\":[{\"role\":\"system\",\"content\":\"S\"}," USER(
                    "Weather in Oslo?") "]," WEATHER_TOOLS "}",
                0,
                "<bos><|turn>system\nS<|tool>declaration:get_weather{description:" Q "Get the weather." Q
                ",parameters:{properties:{city:{description:" Q "City name" Q ",type:" Q "STRING" Q
                "},days:{items:{description:" Q "day" Q ",type:" Q "INTEGER" Q "},type:" Q "ARRAY" Q
                "},opt:{description:" Q "o" Q ",properties:{a:{nullable:true,type:" Q "BOOLEAN" Q
                "}},required:[" Q "a" Q "],type:" Q "OBJECT" Q "},unit:{enum:[" Q "C" Q "," Q "F" Q
                "],type:" Q "STRING" Q "}},required:[" Q "city" Q "],type:" Q "OBJECT" Q
                "}}<tool|><|tool>declaration:noargs{description:" Q "Nothing." Q ",parameters:{type:" Q
                "OBJECT" Q "}}<tool|><turn|>\n<|turn>user\nWeather in Oslo?<turn|>\n"
                "<|turn>model\n");
}

static void expect_declaration(const char *function, const char *expected)
{
    char json[2048], text[2048];
    snprintf(json, sizeof json, "{\"messages\":[" USER("Hi") "],\"tools\":[{\"function\":%s}]}", function);
    snprintf(text, sizeof text,
             "<bos><|turn>system\n<|tool>declaration:%s<tool|><turn|>\n<|turn>user\nHi<turn|>\n", expected);
    expect_text(json, NO_PROMPT, text);
    snprintf(json, sizeof json, "{\"messages\":[" USER("Hi") "],\"tools\":[%s]}", function);
    expect_text(json, NO_PROMPT, text);
}

static void expect_property(const char *schema, const char *expected)
{
    char function[1024], text[1024];
    snprintf(function, sizeof function,
             "{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"p\":%s}}}", schema);
    snprintf(text, sizeof text,
             "f{description:" Q Q ",parameters:{properties:{p:{%s}},type:" Q "OBJECT" Q "}}", expected);
    expect_declaration(function, text);
}

Test(chat, declares_tools_without_what_they_lack)
{
    expect_declaration("{\"name\":\"f\"}", "f{description:" Q Q "}");
    expect_declaration("{\"name\":\"f\",\"description\":\"\",\"parameters\":{}}", "f{description:" Q Q "}");
    expect_declaration("{\"name\":\"f\",\"description\":null,\"parameters\":null,\"response\":null}",
                       "f{description:" Q Q "}");
    expect_declaration("{\"name\":\"f\",\"parameters\":{\"properties\":{}}}",
                       "f{description:" Q Q ",parameters:{type:" Q "OBJECT" Q "}}");
    expect_declaration("{\"name\":\"f\",\"response\":{\"type\":\"object\",\"description\":\"R\"}}",
                       "f{description:" Q Q ",response:{description:" Q "R" Q ",type:" Q "OBJECT" Q "}}");
    expect_declaration("{\"name\":\"f\",\"response\":{\"type\":\"object\",\"description\":\"\"}}",
                       "f{description:" Q Q ",response:{type:" Q "OBJECT" Q "}}");
    expect_text("{\"messages\":[" USER("Hi") "],\"tools\":[]}", NO_PROMPT, "<bos><|turn>user\nHi<turn|>\n");
    expect_text("{\"messages\":[" USER("Hi") "],\"tools\":null}", NO_PROMPT, "<bos><|turn>user\nHi<turn|>\n");
}

Test(chat, declares_properties_of_every_kind)
{
    expect_property("{\"type\":\"string\",\"description\":\"\",\"minLength\":3}", "type:" Q "STRING" Q);
    expect_property("{\"type\":\"integer\",\"enum\":[1,2],\"nullable\":false}", "type:" Q "INTEGER" Q);
    expect_property("{\"type\":\"STRING\",\"enum\":[\"a\",1,null]}",
                    "enum:[" Q "a" Q ",1,null],type:" Q "STRING" Q);
    expect_property("{\"type\":\"string\",\"enum\":[]}", "type:" Q "STRING" Q);
    expect_property("{\"description\":\"d\"}", "description:" Q "d" Q ",type:" Q Q);
    expect_property("{\"type\":[\"null\",\"string\"],\"enum\":[\"x\"]}",
                    "enum:[" Q "x" Q "],nullable:true,type:" Q "STRING" Q);
    expect_property("{\"type\":\"array\"}", "type:" Q "ARRAY" Q);
    expect_property("{\"type\":\"array\",\"items\":{}}", "type:" Q "ARRAY" Q);
    expect_property("{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"a\",\"b\"]}",
                    "properties:{additionalProperties:{type:" Q Q "}},required:[" Q "a" Q "," Q "b" Q
                    "],type:" Q "OBJECT" Q);
    expect_property("{\"type\":\"object\",\"properties\":{}}", "properties:{},type:" Q "OBJECT" Q);
    expect_property("{\"type\":\"object\",\"properties\":{\"b\":{},\"B\":{},\"a\":{},\"_\":{}}}",
                    "properties:{_:{type:" Q Q "},a:{type:" Q Q "},b:{type:" Q Q "},B:{type:" Q Q "}},type:" Q
                    "OBJECT" Q);
}

Test(chat, declares_items_with_all_that_they_say)
{
    expect_property(
        "{\"type\":\"array\",\"items\":{\"type\":[\"string\",\"null\"],\"minimum\":1.5,\"format\":null,"
        "\"default\":{\"B\":1,\"a\":[true]}}}",
        "items:{default:{" Q "a" Q ":[true]," Q "B" Q ":1},minimum:1.5,type:[" Q "STRING" Q "," Q "NULL" Q
        "]},type:" Q "ARRAY" Q);
    expect_property(
        "{\"type\":\"array\",\"nullable\":true,\"items\":{\"type\":\"object\",\"required\":[\"x\"],"
        "\"properties\":{\"x\":{\"type\":\"number\"}}}}",
        "items:{properties:{x:{type:" Q "NUMBER" Q "}},required:[" Q "x" Q "],type:" Q "OBJECT" Q
        "},nullable:true,type:" Q "ARRAY" Q);
}

// ---- calls and results ----

#define ASK USER("Weather in Oslo?")
#define CALLS                                                                                                \
    "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"Need weather.\",\"tool_calls\":["      \
    "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":"             \
    "{\"unit\":\"C\",\"city\":\"Oslo\",\"opt\":{\"b\":null,\"a\":true,\"c\":1.5},\"days\":[1,2]}}},"         \
    "{\"id\":\"c2\",\"type\":\"function\",\"function\":{\"name\":\"noargs\",\"arguments\":{}}}]}"
#define RESULTS                                                                                              \
    "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"{\\\"t\\\":5}\"},"                             \
    "{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":\"{\\\"ok\\\":true}\"}"
#define ASKED_TURNS "<|turn>user\nWeather in Oslo?<turn|>\n<|turn>model\n"
#define ASKED "<bos>" ASKED_TURNS
#define THOUGHT "<|channel>thought\nNeed weather.\n<channel|>"
#define CALLED                                                                                               \
    "<|tool_call>call:get_weather{city:" Q "Oslo" Q ",days:[1,2],opt:{a:true,b:null,c:1.5},unit:" Q "C" Q    \
    "}<tool_call|><|tool_call>call:noargs{}<tool_call|>"
#define ANSWERED                                                                                             \
    "<|tool_response>response:get_weather{value:" Q "{\"t\":5}" Q "}<tool_response|>"                        \
    "<|tool_response>response:noargs{value:" Q "{\"ok\":true}" Q "}<tool_response|>"

Test(chat, renders_calls_that_wait_for_results)
{
    expect_text(CONVERSATION(ASK "," CALLS), 0, ASKED THOUGHT CALLED "<|tool_response>");
    expect_text(CONVERSATION(ASK "," CALLS), LARGE, ASKED THOUGHT CALLED "<|tool_response>");
}

Test(chat, renders_results_inside_the_models_turn)
{
    expect_text(CONVERSATION(ASK "," CALLS "," RESULTS), 0, ASKED THOUGHT CALLED ANSWERED);
    expect_text(CONVERSATION(ASK "," CALLS "," RESULTS), LARGE, ASKED THOUGHT CALLED ANSWERED);
    struct chat_text text = render(CONVERSATION(ASK "," CALLS "," RESULTS), THINKING);
    cr_assert_str_eq(text.text, "<bos><|turn>system\n<|think|>\n<turn|>\n" ASKED_TURNS THOUGHT CALLED ANSWERED
                                "<|channel>thought\n");
    cr_assert(text.opens_thinking);
    chat_text_free(&text);
    text = render(CONVERSATION(ASK "," CALLS "," RESULTS), 0);
    cr_assert_not(text.opens_thinking);
    chat_text_free(&text);
}

Test(chat, closes_a_turn_that_ended_with_results_when_another_follows)
{
    expect_text(CONVERSATION(ASK "," CALLS "," RESULTS "," USER("Thanks")), 0,
                ASKED CALLED ANSWERED "<turn|>\n<|turn>user\nThanks<turn|>\n<|turn>model\n");
    expect_text(CONVERSATION(ASK "," CALLS "," USER("Thanks")), 0,
                ASKED CALLED "<|tool_response><|turn>user\nThanks<turn|>\n<|turn>model\n");
}

Test(chat, drops_reasoning_before_the_last_user_message_unless_it_is_preserved)
{
    const char *conversation = CONVERSATION(
        ASK "," CALLS "," RESULTS ",{\"role\":\"assistant\",\"content\":\"5 C.\"}," USER("Thanks"));
    expect_text(conversation, 0,
                ASKED CALLED ANSWERED "5 C.<turn|>\n<|turn>user\nThanks<turn|>\n<|turn>model\n");
    expect_text(conversation, PRESERVE,
                ASKED THOUGHT CALLED ANSWERED "5 C.<turn|>\n<|turn>user\nThanks<turn|>\n<|turn>model\n");
    const char *plain =
        CONVERSATION(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"reasoning\":\"r\"}," USER("c"));
    expect_text(plain, PRESERVE | NO_PROMPT,
                "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n");
}

Test(chat, renders_legacy_results_as_objects)
{
    expect_text(
        CONVERSATION(
            USER("W") ",{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"get_weather\","
                      "\"arguments\":null}}],\"tool_responses\":[{\"name\":\"get_weather\",\"response\":"
                      "{\"temp\":5,\"cond\":\"rain\",\"l\":[1,\"x\"],\"n\":{\"a\":null}}},"
                      "{\"response\":7}]}"),
        0,
        "<bos><|turn>user\nW<turn|>\n<|turn>model\n<|tool_call>call:get_weather{}<tool_call|><|tool_response>"
        "response:get_weather{cond:" Q "rain" Q ",l:[1," Q "x" Q "],n:{a:null},temp:5}<tool_response|>"
        "<|tool_response>response:unknown{value:7}<tool_response|>");
}

#define CALL(id, name)                                                                                       \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"" id "\",\"function\":{\"name\":\"" name              \
    "\",\"arguments\":{}}}]}"

static void expect_result(const char *call, const char *result, const char *expected)
{
    char json[1024], text[1024];
    snprintf(json, sizeof json, "{\"messages\":[" USER("W") ",%s,%s]}", call, result);
    snprintf(text, sizeof text,
             "<bos><|turn>user\nW<turn|>\n<|turn>model\n<|tool_call>call:f{}<tool_call|>"
             "<|tool_response>response:%s",
             expected);
    struct chat_text rendered = render(json, 0);
    cr_assert_eq(strncmp(rendered.text, text, strlen(text)), 0, "rendered: %s\nexpected: %s", rendered.text,
                 text);
    chat_text_free(&rendered);
}

Test(chat, finds_the_name_of_a_result)
{
    const char *f = CALL("c1", "f");
    expect_result(f, "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"name\":\"n\",\"content\":\"x\"}",
                  "f{value:" Q "x" Q "}");
    expect_result(f, "{\"role\":\"tool\",\"tool_call_id\":\"c9\",\"name\":\"n\",\"content\":\"x\"}",
                  "n{value:" Q "x" Q "}");
    expect_result(f, "{\"role\":\"tool\",\"tool_call_id\":\"c9\",\"content\":\"x\"}",
                  "unknown{value:" Q "x" Q "}");
    expect_result(f, "{\"role\":\"tool\",\"name\":\"n\",\"content\":\"x\"}", "n{value:" Q "x" Q "}");
    expect_result(f, "{\"role\":\"tool\",\"content\":\"x\"}", "f{value:" Q "x" Q "}");
    expect_result(f, "{\"role\":\"tool\",\"content\":\"x\"},{\"role\":\"tool\",\"content\":\"y\"}",
                  "f{value:" Q "x" Q "}<tool_response|><|tool_response>response:unknown{value:" Q "y" Q "}");
}

Test(chat, renders_results_of_every_kind)
{
    const char *f = CALL("c1", "f");
    expect_result(f, "{\"role\":\"tool\",\"content\":{\"b\":[],\"a\":\" s \"}}", "f{a:" Q " s " Q ",b:[]}");
    expect_result(f, "{\"role\":\"tool\",\"content\":-3}", "f{value:-3}");
    expect_result(f, "{\"role\":\"tool\"}", "f{value:null}");
    expect_result(f,
                  "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\" a\"},{\"type\":\"image\"},"
                  "{\"type\":\"text\",\"text\":\"b \"}]}",
                  "f{value:" Q " ab " Q "}<tool_response|><|image|>");
}

Test(chat, reopens_the_turn_when_a_reply_is_asked_for_after_a_closed_one)
{
    const char *conversation =
        CONVERSATION(USER("W") ",{\"role\":\"assistant\",\"content\":\"Wait.\",\"tool_calls\":[{\"id\":\"c\","
                               "\"function\":{\"name\":\"f\",\"arguments\":{}}}]},"
                               "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"x\"}");
    const char *expected =
        "<bos><|turn>user\nW<turn|>\n<|turn>model\n<|tool_call>call:f{}<tool_call|><|tool_response>"
        "response:f{value:" Q "x" Q "}<tool_response|>Wait.<turn|>\n<|turn>model\n";
    expect_text(conversation, 0, expected);
}

Test(chat, accepts_arguments_as_a_string_that_holds_an_object)
{
#define STRING_CALL(arguments)                                                                               \
    CONVERSATION(USER("W") ",{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","         \
                           "\"arguments\":" arguments "}}]}")
    const char *prefix = "<bos><|turn>user\nW<turn|>\n<|turn>model\n<|tool_call>call:f";
    static const char *const cases[][2] = {
        {STRING_CALL("\" {\\\"b\\\":1,\\\"a\\\":\\\"x\\\"}\""), "{a:" Q "x" Q ",b:1}"},
        {STRING_CALL("\"\""), "{}"},
        {STRING_CALL("\"{}\""), "{}"}};
    for (size_t i = 0; i < 3; i++) {
        char expected[256];
        snprintf(expected, sizeof expected, "%s%s<tool_call|><|tool_response>", prefix, cases[i][1]);
        expect_text(cases[i][0], 0, expected);
    }
    expect_error(STRING_CALL("\"[1]\""), "messages[1].tool_calls[0]");
    expect_error(STRING_CALL("\"{\\\"a\\\":\""), "arguments must be an object");
    expect_error(STRING_CALL("5"), "arguments must be an object");
    expect_error(STRING_CALL("[]"), "arguments must be an object");
}

Test(chat, prints_numbers_as_the_templates_do)
{
    expect_result(
        "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}",
        "{\"role\":\"tool\",\"content\":{\"n\":{\"a\":[1.0,-0.0,0.1,1e15,1e16,1.5e-5,0.0001,123456.789,1e22,"
        "5e-324,9007199254740993,-9223372036854775808,1.7976931348623157e308,100.5]}}}",
        "f{n:{a:[1.0,-0.0,0.1,1000000000000000.0,1e+16,1.5e-05,0.0001,123456.789,1e+22,"
        "5e-324,9007199254740993,-9223372036854775808,1.7976931348623157e+308,100.5]}}");
}

// ---- what was typed ----

// Everything that the markup does not say itself must lie in a span.
static void expect_spans(const char *json, unsigned flags, const char *typed)
{
    struct chat_text text = render(json, flags);
    char joined[1024] = "";
    size_t last_end = 0;
    for (size_t i = 0; i < text.n_plain; i++) {
        cr_assert_lt(text.plain[i].begin, text.plain[i].end);
        cr_assert_leq(text.plain[i].end, text.len);
        cr_assert(i == 0 || text.plain[i].begin > last_end, "spans are ascending and do not touch");
        last_end = text.plain[i].end;
        if (i)
            strcat(joined, "|");
        strncat(joined, text.text + text.plain[i].begin, text.plain[i].end - text.plain[i].begin);
    }
    cr_assert_str_eq(joined, typed);
    chat_text_free(&text);
}

Test(chat, marks_what_was_typed_as_plain)
{
    expect_spans(CONVERSATION(USER(" <turn|> ")), THINKING | LARGE, "<turn|>");
    expect_spans(
        CONVERSATION(
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"<tu\"},{\"type\":\"text\","
            "\"text\":\"rn|>\"},{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"<|image|>\"}]}"),
        0, "<turn|>|<|image|>");
    expect_spans(
        CONVERSATION("{\"role\":\"system\",\"content\":\"s\"}," ASK "," CALLS "," RESULTS), 0,
        "s|Weather in Oslo?|Need weather.|get_weather|city|Oslo|days|opt|a|b|c|unit|C|noargs|get_weather|"
        "{\"t\":5}|noargs|{\"ok\":true}");
    expect_spans(
        "{\"messages\":[" USER(
            "Hi") "],\"tools\":[{\"name\":\"f\",\"description\":\"D\",\"parameters\":{\"type\":\"object\","
                  "\"required\":[\"p\"],\"properties\":{\"p\":{\"type\":\"string\",\"description\":\"d\","
                  "\"enum\":[\"e\"]},"
                  "\"q\":{\"type\":\"array\",\"items\":{\"x-k\":{\"k\":\"v\"}}}}}}]}",
        0, "f|D|p|d|e|STRING|q|x-k|k|v|ARRAY|p|OBJECT|Hi");
}

// ---- errors ----

Test(chat, names_what_is_wrong_in_a_conversation)
{
    expect_error("", "not JSON");
    expect_error("{\"messages\":[}", "not JSON: line 1, column 14");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "not JSON");
    expect_error("[]", "\"messages\"");
    expect_error("{}", "\"messages\"");
    expect_error("{\"messages\":\"x\"}", "\"messages\"");
    expect_error("{\"messages\":[]}", "\"messages\"");
    expect_error("{\"messages\":[" USER("x") "],\"tools\":{}}", "\"tools\"");
    expect_error("{\"messages\":[" USER("x") "],\"tools\":[{\"name\":\"f\"},{\"function\":{}}]}", "tools[1]");
    expect_error("{\"messages\":[" USER("x") "],\"tools\":[5]}", "tools[0]");
    expect_error(CONVERSATION(USER("x") ",7"), "messages[1] is no object");
    expect_error(CONVERSATION(USER("x") ",{\"content\":\"y\"}"), "messages[1]");
    expect_error(CONVERSATION(USER("x") ",{\"role\":\"bot\",\"content\":\"y\"}"),
                 "messages[1] has role \"bot\"");
    expect_error(CONVERSATION("{\"role\":\"user\"}"), "messages[0] (user)");
    expect_error(CONVERSATION("{\"role\":\"user\",\"content\":null}"), "messages[0] (user)");
    expect_error(CONVERSATION("{\"role\":\"user\",\"content\":5}"), "messages[0] (user)");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"content\":{}}"), "messages[0] (assistant)");
    expect_error(CONVERSATION("{\"role\":\"user\",\"content\":[\"x\"]}"), "messages[0].content[0]");
    expect_error(CONVERSATION("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"),
                 "content[0] has no text");
    expect_error(
        CONVERSATION(
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"file\"}]}"),
        "messages[0].content[1] has type \"file\"");
    expect_error(CONVERSATION("{\"role\":\"system\",\"content\":[{\"type\":\"image\"}]}"), "text only");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"content\":\"\",\"reasoning\":5}"),
                 "messages[0].reasoning");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"tool_calls\":{}}"),
                 "messages[0].tool_calls is no list");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"x\"}]}"),
                 "tool_calls[0] has no function name");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"tool_responses\":5}"), "tool_responses is no list");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"tool_responses\":[5]}"), "tool_responses[0]");
    expect_error(CONVERSATION(USER("x") ",{\"role\":\"tool\",\"content\":\"y\"}"),
                 "messages[1] is a tool's result");
    expect_error(CONVERSATION("{\"role\":\"tool\",\"content\":\"y\"}"), "messages[0] is a tool's result");
    expect_error(CONVERSATION(CALL("c", "f") "," USER("x") ",{\"role\":\"tool\",\"content\":\"y\"}"),
                 "messages[2]");
    expect_error(CONVERSATION("{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\"}],\"tool_responses\":["
                              "{\"response\":1}]},"
                              "{\"role\":\"tool\",\"content\":\"y\"}"),
                 "messages[0] has its results");
}
