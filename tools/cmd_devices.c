// `lode devices`: what there is to compute with, and of what there is not, why.
#include "tools/command.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/options.h"
#include "tools/text.h"

#include "core/lode.h"

#include <stdio.h>
#include <string.h>

static const char command[] = "lode devices";

static const char usage[] =
    "Usage: lode devices [--json]\n"
    "\n"
    "Lists what a model can be computed with here: the CPU, and GPUs with their memory, the part of it\n"
    "that is free, and their architecture. What cannot be used stands there with the reason: this build\n"
    "has no kernels for it, there is no driver or it is too old, there is no such GPU. An asterisk\n"
    "marks what lode run, chat, eval and bench use when they are told nothing.\n"
    "\n"
    "simt0 and simt1 execute a GPU's kernels on the CPU, to test them: their time is not a GPU's, and\n"
    "they are used only where they are named.\n"
    "\n"
    "  --json             one JSON object\n"
    "\n"
    "Exit: 0 done, also without a GPU; 2 usage.\n"
    "\n"
    "Examples:\n"
    "  lode devices\n"
    "  lode run --devices cuda0,cpu --vram 6G -m gemma-4-26B-A4B-it-Q4_0.gguf -p 'Hello'\n";

enum { MOST_DEVICES = 32, NAME_WIDTH = 8 };

static bool is_default(const struct lode_device_info *device)
{
    return device->usable && !device->is_emulated;
}

// ---- text
// ----------------------------------------------------------------------------------------------------

// "11.2 of 12.0 GiB free": both in the unit of the larger one.
static const char *memory_text(char *out, size_t capacity, const struct lode_device_info *device)
{
    const bool large = device->memory_bytes >= 1ull << 30;
    const double unit = large ? 1ull << 30 : 1ull << 20;
    if (device->memory_bytes)
        snprintf(out, capacity, "%.1f of %.1f %s", (double)device->free_bytes / unit,
                 (double)device->memory_bytes / unit, large ? "GiB" : "MiB");
    else
        snprintf(out, capacity, "-");
    return out;
}

static void print_device(const struct lode_device_info *device)
{
    char memory[64], description[sizeof device->description];
    text_printable(description, sizeof description, device->description);
    printf("%c %-*s %-22s %-12s %s%s\n", is_default(device) ? '*' : ' ', NAME_WIDTH, device->name,
           memory_text(memory, sizeof memory, device), device->architecture[0] ? device->architecture : "-",
           description[0] ? description : "-", device->has_display ? ", with a display" : "");
}

static void print_usable(const struct lode_device_info *devices, size_t n)
{
    printf("  %-*s %-22s %-12s %s\n", NAME_WIDTH, "name", "memory free", "architecture", "device");
    for (size_t i = 0; i < n; i++)
        if (devices[i].usable)
            print_device(&devices[i]);
}

static void print_unusable(const struct lode_device_info *devices, size_t n)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const struct lode_device_info *device = &devices[i];
        if (device->usable)
            continue;
        printf("%s", any ? "" : "\nnot usable\n");
        any = true;
        if (device->description[0])
            print_device(device);
        printf("  %-*s %s\n", NAME_WIDTH, device->description[0] ? "" : device->name, device->why);
    }
}

// One line for each object of kernels: the devices of one follow each other.
static void print_kernels(const struct lode_device_info *devices, size_t n)
{
    const char *before = "";
    for (size_t i = 0; i < n; i++) {
        const struct lode_device_info *device = &devices[i];
        const size_t len = strcspn(device->name, "0123456789");
        if (!device->toolkit[0] || (strlen(before) >= len && strncmp(before, device->name, len) == 0))
            continue;
        printf("%s  %-*.*s %s, for %s\n", before[0] ? "" : "\nkernels\n", NAME_WIDTH, (int)len, device->name,
               device->toolkit, device->built_for);
        before = device->name;
    }
}

static void print_emulated(const struct lode_device_info *devices, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (devices[i].usable && devices[i].is_emulated) {
            printf("\n%s executes a GPU's kernels on the CPU, for tests: its time is not a GPU's, and only\n"
                   "--devices uses it.\n",
                   devices[i].name);
            return;
        }
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static void add_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, text[0] ? json_out_text(text, strlen(text)) : json_null());
}

static void add_bytes(json_t *object, const char *name, const struct lode_device_info *device, uint64_t bytes)
{
    json_object_set_new(object, name, device->memory_bytes ? json_integer((json_int_t)bytes) : json_null());
}

static json_t *device_json(const struct lode_device_info *device)
{
    json_t *object = json_object();
    add_text(object, "name", device->name);
    add_text(object, "description", device->description);
    add_text(object, "architecture", device->architecture);
    add_bytes(object, "memory_bytes", device, device->memory_bytes);
    add_bytes(object, "free_bytes", device, device->free_bytes);
    json_object_set_new(object, "usable", json_boolean(device->usable));
    json_object_set_new(object, "default", json_boolean(is_default(device)));
    json_object_set_new(object, "gpu", json_boolean(device->is_gpu));
    json_object_set_new(object, "emulated", json_boolean(device->is_emulated));
    json_object_set_new(object, "display", json_boolean(device->has_display));
    add_text(object, "toolkit", device->toolkit);
    add_text(object, "built_for", device->built_for);
    add_text(object, "why", device->why);
    return object;
}

static void print_json(const struct lode_device_info *devices, size_t n)
{
    json_t *object = json_object(), *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, device_json(&devices[i]));
    json_object_set_new(object, "devices", array);
    json_out_print(stdout, object); // main notices a failing stdout
}

int cmd_devices(int argc, char **argv)
{
    bool json = false;
    const struct option options[] = {OPTION_IS_FLAG("json", 0, &json)};
    struct option_parser parser = {.command = command, .usage = usage, .options = options, .n_options = 1};
    int code;
    if (!options_parse(&parser, argc, argv, &code))
        return code;
    struct lode_device_info devices[MOST_DEVICES];
    const size_t n = lode_devices(devices, MOST_DEVICES);
    if (json) {
        print_json(devices, n);
        return EXIT_OK;
    }
    print_usable(devices, n);
    print_unusable(devices, n);
    print_kernels(devices, n);
    print_emulated(devices, n);
    return EXIT_OK;
}
