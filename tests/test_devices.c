// Finding devices, and what people may write for one.
#include "tests/gpu_devices.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse(struct device_wish *out, const char *text, struct lode_error *error)
{
    // A copy of just its bytes: what lies behind must not matter.
    const size_t length = strlen(text);
    char *copy = malloc(length + (length == 0));
    memcpy(copy, text, length);
    const int code = device_wish_parse(out, copy, length, error);
    free(copy);
    return code;
}

Test(devices, reads_names_and_settings)
{
    struct device_wish wish;
    struct lode_error error;
    static const char *const names[] = {"cpu", "cuda0", "cuda15", "hip0", "simt0", "simt1"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_assert_eq(parse(&wish, names[i], &error), LODE_OK, "%s: %s", names[i], error.text);
        cr_assert_str_eq(wish.name, names[i]);
        cr_assert_eq(wish.options.memory_bytes, 0);
        cr_assert_eq(wish.options.link_gbps, 0);
        cr_assert_eq(wish.options.link_latency_us, 0);
    }
    cr_assert_eq(parse(&wish, "simt0:memory=64M:link=0.5:latency=12.25", &error), LODE_OK, "%s", error.text);
    cr_assert_str_eq(wish.name, "simt0");
    cr_assert_eq(wish.options.memory_bytes, 64u << 20);
    cr_assert_float_eq(wish.options.link_gbps, 0.5, 1e-12);
    cr_assert_float_eq(wish.options.link_latency_us, 12.25, 1e-12);
    cr_assert_eq(parse(&wish, "simt1:memory=1.5G", &error), LODE_OK, "%s", error.text);
    cr_assert_eq(wish.options.memory_bytes, 3ull << 29);
    cr_assert_eq(parse(&wish, "simt1:memory=4096", &error), LODE_OK, "%s", error.text);
    cr_assert_eq(wish.options.memory_bytes, 4096);
}

Test(devices, rejects_what_makes_no_sense)
{
    static const char *const texts[] = {
        "",
        ":",
        "cpu:",
        "cpu0",
        "gpu0",
        "cuda",
        "cuda-1",
        "cuda00",
        "cuda100",
        "cuda99999999999999999999",
        "cuda0x",
        "cuda1.",
        "CUDA0",
        " cuda0",
        "cuda0,hip0",
        "cuda0:memory=1G",
        "hip0:link=1",
        "cpu:memory=1G",
        "simt",
        "simt0:",
        "simt0::",
        "simt0:memory",
        "simt0:memory=",
        "simt0:memory=0",
        "simt0:memory=-1",
        "simt0:memory=M",
        "simt0:memory=1MM",
        "simt0:memory=1P",
        "simt0:memory=99T",
        "simt0:memory=999999999999999T",
        "simt0:memory=18446744073709551616",
        "simt0:memory=1e9",
        "simt0:memory=0x10",
        "simt0:memory=1..5G",
        "simt0:memory=.5G",
        "simt0:memory=1.G",
        "simt0:memory=nan",
        "simt0:link=0",
        "simt0:link=inf",
        "simt0:link=99999",
        "simt0:link=1,5",
        "simt0:latency=1000001",
        "simt0:latency= 1",
        "simt0:memory=1G:",
        "simt0:memory=1G::link=1",
        "simt0:speed=1",
        "simt0:=1",
        "simt0:\033[31m=1",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct device_wish wish;
        struct lode_error error = {0};
        cr_assert_eq(parse(&wish, texts[i], &error), LODE_ERR_ARGUMENT, "\"%s\"", texts[i]);
        cr_assert_gt(strlen(error.text), 10, "\"%s\"", texts[i]);
        cr_assert_null(strchr(error.text, '\033'));
        cr_assert_str_empty(wish.name);
    }
}

Test(devices, rejects_long_and_binary_text)
{
    enum { LONG = 100000 };
    char *text = malloc(LONG);
    struct device_wish wish;
    struct lode_error error;
    static const char starts[][16] = {"", "cuda", "simt0:", "simt0:memory=", "simt0:link="};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        for (int byte = 0; byte < 256; byte += 7) {
            memset(text, byte, LONG);
            memcpy(text, starts[i], strlen(starts[i]));
            cr_assert_eq(device_wish_parse(&wish, text, LONG, &error), LODE_ERR_ARGUMENT);
        }
    free(text);
}

static const struct device_found *find_of(const struct device_list *list, const char *start)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (strncmp(list->found[i].name, start, strlen(start)) == 0)
            return &list->found[i];
    return NULL;
}

Test(devices, finds_those_that_execute_on_the_cpu)
{
    struct device_list list;
    devices_find(&list);
    for (int i = 0; i < 2; i++) {
        const struct device_found *simt = find_of(&list, i ? "simt1" : "simt0");
        cr_assert_not_null(simt);
        cr_assert(simt->usable, "%s", simt->why);
        cr_assert_str_empty(simt->why);
        cr_assert_eq(simt->index, (uint32_t)i);
        cr_assert_gt(simt->gpu.memory_bytes, 0);
    }
    devices_close(&list);
}

Test(devices, says_of_each_vendor_what_is_there_or_why_nothing_is)
{
    struct device_list list;
    devices_find(&list);
    static const char *const vendors[] = {"cuda", "hip"};
    for (int v = 0; v < 2; v++) {
        const struct device_found *found = find_of(&list, vendors[v]);
        cr_assert_not_null(found, "%s", vendors[v]);
        if (found->usable) {
            cr_assert_str_not_empty(found->gpu.name);
            continue;
        }
        cr_log_info("%s: %s", found->name, found->why);
        cr_assert_gt(strlen(found->why), 8, "%s", vendors[v]);
        struct device_wish wish = {0};
        struct lode_device *device;
        struct lode_error error;
        snprintf(wish.name, sizeof wish.name, "%s0", vendors[v]);
        cr_assert_eq(devices_open(&device, &list, &wish, &error), LODE_ERR_UNSUPPORTED);
        cr_assert_null(device);
        cr_assert_not_null(strstr(error.text, found->why), "%s", error.text);
        cr_assert_not_null(strstr(error.text, wish.name), "%s", error.text);
    }
    devices_close(&list);
}

Test(devices, names_those_there_are_when_asked_for_another)
{
    struct device_list list;
    struct lode_device *device;
    struct lode_error error;
    devices_find(&list);
    const struct device_wish wish = {.name = "simt7"};
    cr_assert_eq(devices_open(&device, &list, &wish, &error), LODE_ERR_ARGUMENT);
    cr_assert_not_null(strstr(error.text, "simt7"));
    cr_assert_not_null(strstr(error.text, "simt0"));
    cr_assert_not_null(strstr(error.text, "cpu"));
    devices_close(&list);
}

Test(devices, are_found_and_opened_again_and_again)
{
    for (int round = 0; round < 3; round++) {
        struct device_list list;
        struct lode_device *devices[2];
        struct lode_error error;
        devices_find(&list);
        for (int i = 0; i < 2; i++) {
            struct device_wish wish;
            cr_assert_eq(parse(&wish, i ? "simt1" : "simt0", &error), LODE_OK);
            cr_assert_eq(devices_open(&devices[i], &list, &wish, &error), LODE_OK, "%s", error.text);
            cr_assert_str_eq(devices[i]->name, i ? "simt1" : "simt0");
            cr_assert_not(devices[i]->host_memory);
        }
        devices[0]->ops->close(devices[0]);
        devices[1]->ops->close(devices[1]);
        devices_close(&list);
    }
}

// ---- shared objects with something wrong

// A folder with one object in it, of the vendor's name. `object` is one of tests/broken_gpu_backend.c's, or
// NULL for `text`.
struct folder {
    char path[64], object[96];
};

static void copy_file(const char *to, const char *from, const char *text)
{
    FILE *out = fopen(to, "wb"), *in = from ? fopen(from, "rb") : NULL;
    cr_assert_not_null(out);
    char bytes[4096];
    size_t n;
    if (text)
        fputs(text, out);
    cr_assert(in || !from, "%s", from);
    while (in && (n = fread(bytes, 1, sizeof bytes, in)) > 0)
        fwrite(bytes, 1, n, out);
    fclose(out);
    if (in)
        fclose(in);
}

// The object wants version 99 of a runtime that was built for it; tests are run with the folders of all such
// in LD_LIBRARY_PATH. Version 98 is nowhere.
static void want_another_runtime(const char *path)
{
    static const char built[] = "libamdhip64.so.99";
    FILE *file = fopen(path, "r+b");
    char *bytes = malloc(1 << 20);
    cr_assert(file && bytes);
    const size_t n = fread(bytes, 1, 1 << 20, file);
    char *name = memmem(bytes, n, built, sizeof built);
    cr_assert_not_null(name);
    name[sizeof built - 2] = '8';
    rewind(file);
    cr_assert_eq(fwrite(bytes, 1, n, file), n);
    fclose(file);
    free(bytes);
}

static struct folder make_folder(const char *vendor, const char *wrong, const char *text)
{
    struct folder folder = {.path = "/tmp/lode-devices-XXXXXX"};
    cr_assert_not_null(mkdtemp(folder.path));
    if (!vendor)
        return folder;
    char from[4096];
    snprintf(folder.object, sizeof folder.object, "%s/liblode-%s.so", folder.path, vendor);
    snprintf(from, sizeof from, OBJECT_DIR "/gpu_backend_%s.so", wrong ? wrong : "");
    copy_file(folder.object, wrong ? from : NULL, text);
    if (wrong && strcmp(wrong, "no_runtime") == 0)
        want_another_runtime(folder.object);
    return folder;
}

static void remove_folder(const struct folder *folder)
{
    if (folder->object[0])
        unlink(folder->object);
    rmdir(folder->path);
}

// Exactly one entry for the vendor, with its bare name, that says why.
static void check_absent(const struct device_list *list, const char *vendor, const char *words)
{
    const struct device_found *found = find_of(list, vendor);
    cr_assert_not_null(found);
    cr_assert_str_eq(found->name, vendor);
    cr_assert_not(found->usable);
    cr_assert_not_null(strstr(found->why, words), "%s: %s", vendor, found->why);
}

Test(devices, says_so_where_there_are_no_objects)
{
    const struct folder folder = make_folder(NULL, NULL, NULL);
    const char *const folders[] = {folder.path, "/nowhere/at/all", ""};
    for (int i = 0; i < 3; i++) {
        struct device_list list;
        devices_find_in(&list, folders[i]);
        cr_assert_eq(list.n, 2); // that simt is missing is nobody's business
        check_absent(&list, "cuda", "no kernels for NVIDIA GPUs");
        check_absent(&list, "hip", "no kernels for AMD GPUs");
        devices_close(&list);
    }
    remove_folder(&folder);
}

Test(devices, says_what_is_wrong_with_an_object)
{
    static const struct {
        const char *vendor, *wrong, *text, *words;
    } cases[] = {
        {"cuda", NULL, "this is no shared object", "cannot be opened"},
        {"cuda", NULL, "", "cannot be opened"},
        {"cuda", "no_symbol", NULL, "version"},
        {"cuda", "null_table", NULL, "version"},
        {"cuda", "old_abi", NULL, "version"},
        {"hip", "other_name", NULL, "version"},
        {"cuda", "no_driver", NULL, "no driver for the test"},
        {"cuda", "no_device", NULL, "no device"},
        {"hip", "no_runtime", NULL, "no HIP runtime (libamdhip64.so.98 is not installed)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct folder folder = make_folder(cases[i].vendor, cases[i].wrong, cases[i].text);
        struct device_list list;
        devices_find_in(&list, folder.path);
        check_absent(&list, cases[i].vendor, cases[i].words);
        devices_close(&list);
        remove_folder(&folder);
    }
}

Test(devices, tells_usable_devices_from_others)
{
    const struct folder folder = make_folder("cuda", "three_devices", NULL);
    struct device_list list;
    struct lode_device *device;
    struct lode_error error;
    devices_find_in(&list, folder.path);
    cr_assert_eq(list.n, 4); // and hip's
    static const char *const why[] = {"", "sm_75 compute_75", "it has fallen off the bus"};
    for (uint32_t i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "cuda%u", i);
        cr_assert_str_eq(list.found[i].name, name);
        cr_assert_eq(list.found[i].usable, i == 0);
        cr_assert_not_null(strstr(list.found[i].why, why[i]), "%s", list.found[i].why);
        struct device_wish wish = {0};
        memcpy(wish.name, name, sizeof name);
        cr_assert_eq(devices_open(&device, &list, &wish, &error), LODE_ERR_UNSUPPORTED);
        cr_assert_not_null(strstr(error.text, i == 0 ? "the test opens nothing" : why[i]), "%s", error.text);
    }
    devices_close(&list);
    remove_folder(&folder);
}

Test(devices, leaves_out_those_that_the_list_has_no_room_for)
{
    const struct folder folder = make_folder("cuda", "many_devices", NULL);
    struct device_list list;
    devices_find_in(&list, folder.path);
    cr_assert_eq(list.n, DEVICES_MAX);
    cr_assert_str_eq(list.found[DEVICES_MAX - 1].name, "cuda15");
    devices_close(&list);
    remove_folder(&folder);
}
