// The declarations of tools: a JSON schema in the short form that the model was trained on.
//
// Only what the reference template knows of a schema is kept (description, enum of strings, items, nullable,
// properties, required, type); other keywords are dropped, except inside `items`, where they stand as they
// are.
#include "core/chat_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

json_t *chat_function_of(const json_t *entry)
{
    json_t *function = json_object_get(entry, "function");
    return json_is_object(function) ? function : (json_t *)entry;
}

// A comma before every member but the first.
static void next_member(struct chat_builder *out, bool *any, const char *markup)
{
    if (*any)
        chat_put(out, ",");
    *any = true;
    chat_put(out, markup);
}

static void put_upper(struct chat_builder *out, const json_t *string)
{
    chat_put(out, CHAT_QUOTE);
    const char *text = json_string_value(string);
    for (size_t i = 0; i < json_string_length(string); i++) {
        const char upper = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - ('a' - 'A')) : text[i];
        chat_put_plain(out, &upper, 1);
    }
    chat_put(out, CHAT_QUOTE);
}

static bool is_text(const json_t *string, const char *expected)
{
    return json_is_string(string) && !strcasecmp(json_string_value(string), expected);
}

// The type of a schema; of a list of types the first that is not "null", which *out_nullable tells.
static const json_t *type_of(const json_t *schema, bool *out_nullable)
{
    const json_t *type = json_object_get(schema, "type"), *first = NULL, *item;
    size_t n;
    if (!json_is_array(type))
        return type;
    json_array_foreach(type, n, item)
    {
        if (is_text(item, "null"))
            *out_nullable = true;
        else if (!first)
            first = item;
    }
    return first;
}

static bool is_truthy(const json_t *value)
{
    return json_is_true(value) || json_array_size(value) || json_object_size(value) ||
           json_string_length(value) || json_integer_value(value) || json_real_value(value) != 0;
}

static void put_required(struct chat_builder *out, const json_t *required)
{
    bool any = false;
    chat_put(out, "required:[");
    for (size_t i = 0; i < json_array_size(required); i++) {
        next_member(out, &any, "");
        chat_put_quoted(out, json_array_get(required, i));
    }
    chat_put(out, "]");
}

static void put_properties(struct chat_builder *out, const json_t *properties, bool without_keywords);

static void put_items(struct chat_builder *out, const json_t *items)
{
    size_t count;
    bool any = false;
    struct chat_member *members = chat_sorted_members(out, items, &count);
    chat_put(out, "items:{");
    for (size_t i = 0; i < count; i++) {
        const json_t *value = members[i].value;
        if (json_is_null(value))
            continue;
        next_member(out, &any, "");
        if (!strcmp(members[i].key, "properties")) {
            put_properties(out, value, false);
        } else if (!strcmp(members[i].key, "required")) {
            put_required(out, value);
        } else if (!strcmp(members[i].key, "type") && json_is_string(value)) {
            chat_put(out, "type:");
            put_upper(out, value);
        } else if (!strcmp(members[i].key, "type") && json_is_array(value)) {
            bool any_type = false;
            chat_put(out, "type:[");
            for (size_t n = 0; n < json_array_size(value); n++) {
                next_member(out, &any_type, "");
                put_upper(out, json_array_get(value, n));
            }
            chat_put(out, "]");
        } else {
            chat_put_plain(out, members[i].key, strlen(members[i].key));
            chat_put(out, ":");
            chat_put_value(out, value, true);
        }
    }
    chat_put(out, "}");
    free(members);
}

static void put_property(struct chat_builder *out, const json_t *schema)
{
    bool any = false, nullable = is_truthy(json_object_get(schema, "nullable"));
    const json_t *type = type_of(schema, &nullable);
    const json_t *description = json_object_get(schema, "description"),
                 *properties = json_object_get(schema, "properties");
    if (json_string_length(description)) {
        next_member(out, &any, "description:");
        chat_put_quoted(out, description);
    }
    if (is_text(type, "string") && is_truthy(json_object_get(schema, "enum"))) {
        next_member(out, &any, "enum:");
        chat_put_value(out, json_object_get(schema, "enum"), true);
    }
    if (is_text(type, "array") && json_object_size(json_object_get(schema, "items"))) {
        next_member(out, &any, "");
        put_items(out, json_object_get(schema, "items"));
    }
    if (nullable)
        next_member(out, &any, "nullable:true");
    if (is_text(type, "object")) {
        next_member(out, &any, "");
        if (json_is_object(properties))
            put_properties(out, properties, false);
        else
            put_properties(out, schema, true);
        if (json_array_size(json_object_get(schema, "required"))) {
            next_member(out, &any, "");
            put_required(out, json_object_get(schema, "required"));
        }
    }
    next_member(out, &any, "type:");
    put_upper(out, type);
}

// `without_keywords` leaves out the schema's own keywords, where a schema stands in the place of its
// properties.
static void put_properties(struct chat_builder *out, const json_t *properties, bool without_keywords)
{
    static const char *const keywords[] = {"description", "type", "properties", "required", "nullable"};
    size_t count;
    bool any = false;
    struct chat_member *members = chat_sorted_members(out, properties, &count);
    chat_put(out, "properties:{");
    for (size_t i = 0; i < count; i++) {
        bool is_keyword = false;
        for (size_t n = 0; n < sizeof keywords / sizeof *keywords; n++)
            is_keyword |= !strcmp(members[i].key, keywords[n]);
        if (is_keyword && without_keywords)
            continue;
        next_member(out, &any, "");
        chat_put_plain(out, members[i].key, strlen(members[i].key));
        chat_put(out, ":{");
        put_property(out, members[i].value);
        chat_put(out, "}");
    }
    chat_put(out, "}");
    free(members);
}

static void put_type_or_object(struct chat_builder *out, const json_t *schema)
{
    bool ignored = false;
    const json_t *type = type_of(schema, &ignored);
    chat_put(out, "type:");
    if (json_string_length(type))
        put_upper(out, type);
    else
        chat_put(out, CHAT_QUOTE "OBJECT" CHAT_QUOTE);
}

static void put_parameters(struct chat_builder *out, const json_t *parameters)
{
    chat_put(out, ",parameters:{");
    if (json_object_size(json_object_get(parameters, "properties"))) {
        put_properties(out, json_object_get(parameters, "properties"), false);
        chat_put(out, ",");
    }
    if (json_array_size(json_object_get(parameters, "required"))) {
        put_required(out, json_object_get(parameters, "required"));
        chat_put(out, ",");
    }
    put_type_or_object(out, parameters);
    chat_put(out, "}");
}

void chat_put_declaration(struct chat_builder *out, const json_t *function)
{
    const json_t *parameters = json_object_get(function, "parameters"),
                 *response = json_object_get(function, "response");
    chat_put(out, "<|tool>declaration:");
    chat_put_text(out, json_object_get(function, "name"));
    chat_put(out, "{description:");
    chat_put_quoted(out, json_object_get(function, "description"));
    if (json_object_size(parameters))
        put_parameters(out, parameters);
    if (json_is_object(response)) {
        chat_put(out, ",response:{");
        if (json_string_length(json_object_get(response, "description"))) {
            chat_put(out, "description:");
            chat_put_quoted(out, json_object_get(response, "description"));
            chat_put(out, ",");
        }
        put_type_or_object(out, response);
        chat_put(out, "}");
    }
    chat_put(out, "}<tool|>");
}
