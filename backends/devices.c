// Finding shared objects of GPU kernels, what they find, and opening it.
//
// A program that runs from its build's folder takes the objects of that build; any other takes the installed
// ones. Nothing is taken from a folder that the program is not from: an object is code.
#include "backends/devices.h"

#include "backends/backend_dirs.h"

#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CUDA, HIP, SIMT };
static const char *const backend_names[DEVICES_BACKENDS] = {[CUDA] = "cuda", [HIP] = "hip", [SIMT] = "simt"};
static const char *const vendors[DEVICES_BACKENDS] = {
    [CUDA] = "NVIDIA GPUs", [HIP] = "AMD GPUs", [SIMT] = "the CPU"};

bool devices_have_driver(void)
{
    // NVIDIA's on a PC and on its own boards, AMD's, and either under WSL.
    static const char *const files[] = {"/dev/nvidiactl",   "/dev/nvidia0", "/dev/nvmap",
                                        "/dev/nvhost-ctrl", "/dev/kfd",     "/dev/dxg"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (access(files[i], F_OK) == 0)
            return true;
    return false;
}

// ---- shared objects

static bool runs_from_build(void)
{
    char program[PATH_MAX], build[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0 || !realpath(LODE_BUILD_DIR, build))
        return false;
    program[length] = '\0';
    const size_t build_length = strlen(build);
    return strncmp(program, build, build_length) == 0 && program[build_length] == '/';
}

// Reasons are cut where they are too long.
struct reason {
    char text[256];
};

static struct reason reason_of(const char *first, const char *second, const char *third)
{
    struct reason out;
    size_t used = 0;
    const char *const parts[] = {first, second, third};
    for (size_t p = 0; p < 3; p++)
        for (const char *at = parts[p]; *at && used < sizeof out.text - 1; at++)
            out.text[used++] = *at;
    out.text[used] = '\0';
    return out;
}

static void put_reason(char out[256], struct reason reason)
{
    memcpy(out, reason.text, sizeof reason.text);
}

// What dlopen says, for people: the libraries of the vendors are the usual cause.
static struct reason explain_dlopen(const char *said)
{
    const char *hip = said ? strstr(said, "libamdhip64.so") : NULL;
    if (!hip || strstr(said, "undefined symbol"))
        return reason_of("cannot be opened: ", said ? said : "no reason given", "");
    char library[64];
    snprintf(library, sizeof library, "%.*s", (int)strcspn(hip, ": "), hip);
    return reason_of("no HIP runtime (", library, " is not installed)");
}

static const struct lode_gpu_backend *check_table(struct device_list *list, uint32_t backend)
{
    lode_gpu_backend_fn get;
    void *symbol = dlsym(list->backends[backend].handle, LODE_GPU_BACKEND_SYMBOL);
    _Static_assert(sizeof get == sizeof symbol, "POSIX: a function's address fits");
    memcpy(&get, &symbol, sizeof get);
    const struct lode_gpu_backend *table = get ? get() : NULL;
    if (!table || table->abi != LODE_GPU_ABI || strcmp(table->name, backend_names[backend]) != 0) {
        put_reason(list->backends[backend].why, reason_of("liblode-", backend_names[backend],
                                                          ".so is not of this version of Lode; build and "
                                                          "install both together"));
        return NULL;
    }
    return table;
}

// False: there is no such file.
static bool open_object(struct device_list *list, uint32_t backend, const char *folder)
{
    char path[4096];
    const int length = snprintf(path, sizeof path, "%s/liblode-%s.so", folder, backend_names[backend]);
    if (length < 0 || (size_t)length >= sizeof path || access(path, F_OK) != 0)
        return false;
    // Vendors' runtimes do not expect to be unloaded.
    list->backends[backend].handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (list->backends[backend].handle)
        list->backends[backend].table = check_table(list, backend);
    else
        put_reason(list->backends[backend].why, explain_dlopen(dlerror()));
    return true;
}

// ---- what they find

static struct device_found *add_found(struct device_list *list, uint32_t backend)
{
    if (list->n == DEVICES_MAX)
        return NULL;
    struct device_found *found = &list->found[list->n++];
    *found = (struct device_found){.backend = backend};
    snprintf(found->name, sizeof found->name, "%s", backend_names[backend]);
    return found;
}

// One entry that says why there is no device.
static void add_absent(struct device_list *list, uint32_t backend, struct reason why)
{
    struct device_found *found = add_found(list, backend);
    if (found)
        put_reason(found->why, why);
}

static void describe(struct device_list *list, uint32_t backend, uint32_t index)
{
    struct device_found *found = add_found(list, backend);
    if (!found)
        return;
    const struct lode_gpu_backend *table = list->backends[backend].table;
    struct lode_error error;
    found->index = index;
    snprintf(found->name, sizeof found->name, "%s%u", backend_names[backend], index);
    if (table->describe(&found->gpu, index, &error) != LODE_OK)
        put_reason(found->why, reason_of(error.text, "", ""));
    else if (!found->gpu.is_built)
        put_reason(found->why,
                   reason_of("this build has no kernels for it, only for ", table->architectures, ""));
    else
        found->usable = true;
}

static void find_devices(struct device_list *list, uint32_t backend)
{
    struct lode_error error;
    uint32_t n = 0;
    const struct lode_gpu_backend *table = list->backends[backend].table;
    if (!table)
        add_absent(list, backend, reason_of(list->backends[backend].why, "", ""));
    else if (table->count(&n, &error) != LODE_OK)
        add_absent(list, backend, reason_of(error.text, "", ""));
    else if (n == 0)
        add_absent(list, backend, reason_of("no device", "", ""));
    for (uint32_t index = 0; index < n && list->n < DEVICES_MAX; index++)
        describe(list, backend, index);
}

void devices_find(struct device_list *out)
{
    devices_find_in(out, runs_from_build() ? LODE_BUILD_BACKEND_DIR : LODE_BACKEND_DIR);
}

void devices_find_in(struct device_list *out, const char *folder)
{
    *out = (struct device_list){0};
    for (uint32_t backend = 0; backend < DEVICES_BACKENDS; backend++) {
        out->backends[backend].name = backend_names[backend];
        const bool there = open_object(out, backend, folder);
        if (!there)
            put_reason(
                out->backends[backend].why,
                backend == SIMT
                    ? reason_of("kernels executed on the CPU are for tests, from a build's folder", "", "")
                    : reason_of("this build has no kernels for ", vendors[backend], ""));
        if (there || backend != SIMT) // which is for tests: nobody misses it
            find_devices(out, backend);
    }
}

void devices_close(struct device_list *list)
{
    for (uint32_t backend = 0; backend < DEVICES_BACKENDS; backend++)
        if (list->backends[backend].handle)
            dlclose(list->backends[backend].handle);
    *list = (struct device_list){0};
}

// ---- opening

static void list_usable(const struct device_list *list, char *out, size_t out_bytes)
{
    size_t used = (size_t)snprintf(out, out_bytes, "cpu");
    for (uint32_t i = 0; i < list->n && used < out_bytes; i++)
        if (list->found[i].usable)
            used += (size_t)snprintf(out + used, out_bytes - used, ", %s", list->found[i].name);
}

static bool is_of_backend(const char *name, const char *backend)
{
    return strncmp(name, backend, strlen(backend)) == 0;
}

int devices_open(struct lode_device **out, const struct device_list *list, const struct device_wish *wish,
                 struct lode_error *error)
{
    *out = NULL;
    for (uint32_t i = 0; i < list->n; i++) {
        const struct device_found *found = &list->found[i];
        const bool is_absent = !found->usable && strcmp(found->name, backend_names[found->backend]) == 0;
        if (is_absent ? !is_of_backend(wish->name, found->name) : strcmp(wish->name, found->name) != 0)
            continue;
        if (!found->usable)
            return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s cannot be used: %s", wish->name, found->why);
        return list->backends[found->backend].table->open(out, found->index, &wish->options, error);
    }
    char names[256];
    list_usable(list, names, sizeof names);
    return lode_fail(error, LODE_ERR_ARGUMENT, "there is no device %s; there are: %s", wish->name, names);
}

// ---- wishes

// A piece of the text that is being read.
struct piece {
    const char *text;
    size_t length;
};

static struct piece next_piece(struct piece *rest, char separator)
{
    size_t length = 0;
    while (length < rest->length && rest->text[length] != separator)
        length++;
    const struct piece piece = {rest->text, length};
    const size_t taken = length + (length < rest->length);
    rest->text += taken;
    rest->length -= taken;
    return piece;
}

static bool piece_is(struct piece piece, const char *word)
{
    return piece.length == strlen(word) && memcmp(piece.text, word, piece.length) == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

// "12", "0.5": digits with at most one point between them; false for anything else and beyond 15 characters,
// which a double holds exactly. The locale has no say.
static bool parse_number(double *out, struct piece piece)
{
    double value = 0, digit_value = 1;
    bool has_point = false;
    if (piece.length == 0 || piece.length > 15 || !is_digit(piece.text[0]) ||
        !is_digit(piece.text[piece.length - 1]))
        return false;
    for (size_t i = 0; i < piece.length; i++) {
        if (piece.text[i] == '.' && !has_point)
            has_point = true;
        else if (!is_digit(piece.text[i]))
            return false;
        else if (has_point)
            value += (digit_value /= 10) * (piece.text[i] - '0');
        else
            value = value * 10 + (piece.text[i] - '0');
    }
    *out = value;
    return true;
}

static bool parse_bytes(uint64_t *out, struct piece piece)
{
    static const char units[] = "KMGT";
    double unit = 1, value;
    const char *at = piece.length ? memchr(units, piece.text[piece.length - 1], sizeof units - 1) : NULL;
    if (at) {
        unit = ldexp(1, 10 * (int)(at - units + 1));
        piece.length--;
    }
    if (!parse_number(&value, piece) || value * unit < 1 || value * unit > ldexp(1, 44))
        return false;
    *out = (uint64_t)(value * unit);
    return true;
}

// Of what a person typed, for an error: its begin, and nothing that a terminal would obey.
#define QUOTED_BYTES 64
static const char *quoted(char out[QUOTED_BYTES], struct piece piece)
{
    size_t n = piece.length < QUOTED_BYTES - 4 ? piece.length : QUOTED_BYTES - 4;
    for (size_t i = 0; i < n; i++)
        out[i] = piece.text[i] >= ' ' && piece.text[i] <= '~' ? piece.text[i] : '?';
    snprintf(out + n, QUOTED_BYTES - n, "%s", n < piece.length ? "..." : "");
    return out;
}

static int parse_name(struct device_wish *out, struct piece name, struct lode_error *error)
{
    char text[QUOTED_BYTES];
    bool known = piece_is(name, "cpu");
    for (uint32_t b = 0; b < DEVICES_BACKENDS && !known; b++) {
        const size_t length = strlen(backend_names[b]), digits = name.length - length;
        known = name.length > length && digits <= 2 && memcmp(name.text, backend_names[b], length) == 0 &&
                is_digit(name.text[length]) && is_digit(name.text[name.length - 1]) &&
                (digits == 1 || name.text[length] != '0');
    }
    if (!known)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "\"%s\" is no device; devices are cpu, cuda0, hip0, simt0 and so on",
                         quoted(text, name));
    snprintf(out->name, sizeof out->name, "%.*s", (int)name.length, name.text);
    return LODE_OK;
}

static int parse_setting(struct device_wish *out, struct piece setting, struct lode_error *error)
{
    char text[QUOTED_BYTES];
    struct piece value = setting;
    const struct piece key = next_piece(&value, '=');
    const bool of_simt = is_of_backend(out->name, backend_names[SIMT]);
    bool fine = false;
    if (of_simt && piece_is(key, "memory"))
        fine = parse_bytes(&out->options.memory_bytes, value);
    else if (of_simt && piece_is(key, "link"))
        fine = parse_number(&out->options.link_gbps, value) && out->options.link_gbps >= 1e-3 &&
               out->options.link_gbps <= 1e4;
    else if (of_simt && piece_is(key, "latency"))
        fine = parse_number(&out->options.link_latency_us, value) && out->options.link_latency_us <= 1e6;
    else
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         of_simt ? "%s has no \"%s\"; it has memory=, link= and latency="
                                 : "%s has no settings, and not \"%s\"",
                         out->name, quoted(text, key));
    if (!fine)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "%s: \"%s\" makes no sense; for example memory=64M (up to 16T), link=10 (GB/s, 0.001 "
            "to 10000), latency=5 (microseconds, up to 1000000)",
            out->name, quoted(text, setting));
    return LODE_OK;
}

int device_wish_parse(struct device_wish *out, const char *text, size_t length, struct lode_error *error)
{
    *out = (struct device_wish){0};
    struct piece rest = {text, length};
    int code = parse_name(out, next_piece(&rest, ':'), error);
    // A colon is followed by a setting.
    bool more = code == LODE_OK && length > strlen(out->name);
    while (code == LODE_OK && more) {
        more = memchr(rest.text, ':', rest.length) != NULL;
        code = parse_setting(out, next_piece(&rest, ':'), error);
    }
    if (code != LODE_OK)
        *out = (struct device_wish){0};
    return code;
}
