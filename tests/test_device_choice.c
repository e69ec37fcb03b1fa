// Which GPUs a list of devices means, on machines that have some, one that cannot be used, or none; and which
// of a profile's they are.
#include "core/devices.h"
#include "profiles/machine_profile.h"
#include "tools/model_gpus.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct device_list list;

static struct device_found *add(const char *name, uint32_t backend, const char *why)
{
    struct device_found *found = &list.found[list.n++];
    *found = (struct device_found){.backend = backend, .usable = !why};
    snprintf(found->name, sizeof found->name, "%s", name);
    snprintf(found->why, sizeof found->why, "%s", why ? why : "");
    return found;
}

// Two NVIDIA GPUs of which the second is too old, no AMD GPU, and the emulations.
static void make_list(void)
{
    list = (struct device_list){.backends = {{.name = "cuda"}, {.name = "hip"}, {.name = "simt"}}};
    add("cuda0", 0, NULL);
    add("cuda1", 0, "this build has kernels for sm_75, not for sm_35");
    add("hip", 1, "no HIP device");
    add("simt0", 2, NULL);
    add("simt1", 2, NULL);
}

TestSuite(device_choice, .init = make_list);

static int choose(struct device_choice *out, const char *text, struct lode_error *error)
{
    *error = (struct lode_error){0};
    int code = device_choice_parse(out, text, error);
    return code ? code : device_choice_find(out, &list, error);
}

static void expect_choice(const char *text, const char *names)
{
    struct device_choice choice;
    struct lode_error error;
    char got[128] = "";
    cr_assert_eq(choose(&choice, text, &error), 0, "%s: %s", text, error.text);
    for (uint32_t i = 0; i < choice.n; i++) {
        cr_expect_str_eq(choice.wishes[i].name, list.found[choice.found[i]].name);
        strcat(strcat(got, i ? " " : ""), choice.wishes[i].name);
    }
    cr_expect_str_eq(got, names, "%s", text);
}

static void expect_refusal(const char *text, int code, const char *words)
{
    struct device_choice choice;
    struct lode_error error;
    cr_expect_eq(choose(&choice, text, &error), code, "'%s'", text);
    cr_expect(strstr(error.text, words), "'%s': %s", text, error.text);
}

Test(device_choice, by_default_every_gpu_that_can_be_used_and_no_emulation)
{
    expect_choice(NULL, "cuda0");
    list.n = 0;
    expect_choice(NULL, "");
}

Test(device_choice, the_order_is_that_of_the_list_and_cpu_names_nothing)
{
    expect_choice("cpu", "");
    expect_choice("simt1,cpu,cuda0", "simt1 cuda0");
    expect_choice("cuda0", "cuda0");
    expect_choice("cpu,cpu", "");
}

Test(device_choice, settings_of_an_emulation_come_through)
{
    struct device_choice choice;
    struct lode_error error;
    cr_assert_eq(choose(&choice, "simt1:memory=64M:link=10:latency=5,simt0,cpu", &error), 0, "%s",
                 error.text);
    cr_assert_eq(choice.n, 2);
    cr_expect_eq(choice.wishes[0].options.memory_bytes, 64u << 20);
    cr_expect_eq(choice.wishes[0].options.link_gbps, 10);
    cr_expect_eq(choice.wishes[0].options.link_latency_us, 5);
    cr_expect_eq(choice.wishes[1].options.memory_bytes, 0);
}

Test(device_choice, what_is_wrong_is_told)
{
    expect_refusal("", LODE_ERR_ARGUMENT, "a name is missing");
    expect_refusal("cuda0,", LODE_ERR_ARGUMENT, "a name is missing");
    expect_refusal("cuda0,,cpu", LODE_ERR_ARGUMENT, "a name is missing");
    expect_refusal("simt0,cuda0,simt0", LODE_ERR_ARGUMENT, "simt0 is named twice");
    expect_refusal("simt0:memory=1M,simt0:memory=2M", LODE_ERR_ARGUMENT, "simt0 is named twice");
    expect_refusal("simt0,simt1,cuda0,hip0,hip1", LODE_ERR_ARGUMENT, "more than 4 GPUs");
    expect_refusal("gpu0", LODE_ERR_ARGUMENT, "gpu0");
    expect_refusal("cuda0:memory=1G", LODE_ERR_ARGUMENT, "cuda0");
    expect_refusal("simt0:memory=lots", LODE_ERR_ARGUMENT, "memory");
}

Test(device_choice, what_cannot_be_used_is_told_with_the_reason)
{
    expect_refusal("cuda1", LODE_ERR_UNSUPPORTED, "cuda1 cannot be used: this build has kernels for sm_75");
    expect_refusal("hip0,cpu", LODE_ERR_UNSUPPORTED, "hip0 cannot be used: no HIP device");
    expect_refusal("cuda7", LODE_ERR_UNSUPPORTED,
                   "there is no device cuda7; there are cpu, cuda0, simt0, simt1");
    list.n = 0;
    snprintf(list.backends[0].why, sizeof list.backends[0].why, "no kernels");
    expect_refusal("cuda0", LODE_ERR_UNSUPPORTED, "cuda0 cannot be used: no kernels");
}

Test(device_choice, the_default_leaves_out_what_is_beyond_the_limit)
{
    struct device_choice choice;
    struct lode_error error;
    list.n = 0;
    for (int i = 0; i < LODE_PLAN_GPUS + 2; i++) {
        char name[16];
        snprintf(name, sizeof name, "cuda%d", i);
        add(name, 0, NULL);
    }
    cr_assert_eq(choose(&choice, NULL, &error), 0, "%s", error.text);
    cr_expect_eq(choice.n, LODE_PLAN_GPUS);
    cr_expect_str_eq(choice.wishes[LODE_PLAN_GPUS - 1].name, "cuda3");
}

// ---- what people are told

Test(device_choice, the_cpu_is_the_first_device_and_every_kind_of_gpu_has_an_entry)
{
    struct lode_device_info devices[32];
    const size_t n = lode_devices(devices, 32);
    bool cuda = false, hip = false;
    cr_assert_geq(n, 3);
    cr_expect_str_eq(devices[0].name, "cpu");
    cr_expect(devices[0].usable && !devices[0].is_gpu && devices[0].memory_bytes >= devices[0].free_bytes &&
              devices[0].free_bytes > 0);
    for (size_t i = 1; i < n; i++) {
        cr_expect(devices[i].is_gpu, "%s", devices[i].name);
        cr_expect_neq(devices[i].usable, devices[i].why[0] != '\0', "%s: %s", devices[i].name,
                      devices[i].why);
        cr_expect_eq(devices[i].is_emulated, strncmp(devices[i].name, "simt", 4) == 0);
        cuda |= strncmp(devices[i].name, "cuda", 4) == 0;
        hip |= strncmp(devices[i].name, "hip", 3) == 0;
    }
    cr_expect(cuda && hip);
    cr_expect_eq(lode_devices(devices, 1), 1);
    cr_expect_eq(lode_devices(devices, 0), 0);
}

Test(device_choice, cpu_alone_uses_no_gpu)
{
    struct lode_device_info devices[LODE_PLAN_GPUS];
    struct lode_error error = {0};
    size_t n = 9;
    cr_expect_eq(lode_devices_used(devices, &n, LODE_PLAN_GPUS, "cpu", &error), 0, "%s", error.text);
    cr_expect_eq(n, 0);
    cr_expect_eq(lode_devices_used(devices, &n, LODE_PLAN_GPUS, "tpu0", &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(n, 0);
}

// ---- in a profile

static struct machine_profile profile; // large

static void know(const char *name, const char *backend)
{
    struct profile_device *gpu = &profile.gpus[profile.n_gpus++];
    snprintf(gpu->name, sizeof gpu->name, "%s", name);
    snprintf(gpu->backend, sizeof gpu->backend, "%s", backend);
}

static void use(struct model_gpus *gpus, const char *name, const char *description)
{
    struct lode_device_info *info = &gpus->info[gpus->n++];
    snprintf(info->name, sizeof info->name, "%s", name);
    snprintf(info->description, sizeof info->description, "%s", description);
    info->is_emulated = strncmp(name, "simt", 4) == 0;
}

Test(device_choice, gpus_are_found_in_a_profile_by_their_names)
{
    struct model_gpus gpus = {.found = true};
    struct lode_error error = {0};
    uint32_t index[LODE_PLAN_GPUS] = {9, 9, 9, 9};
    know("RTX 4070", "cuda");
    know("RX 7800 XT", "hip");
    know("RTX 4070", "cuda");
    use(&gpus, "hip0", "RX 7800 XT");
    use(&gpus, "cuda1", "RTX 4070");
    use(&gpus, "cuda0", "RTX 4070");
    cr_assert_eq(model_gpus_match(index, &gpus, &profile, &error), 0, "%s", error.text);
    cr_expect(index[0] == 1 && index[1] == 0 && index[2] == 2, "%u %u %u", index[0], index[1], index[2]);
    use(&gpus, "cuda2", "RTX 4070"); // there are two of them
    cr_expect_eq(model_gpus_match(index, &gpus, &profile, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "cuda2 (RTX 4070) is not in the profile; placed by rule (lode probe"), "%s",
              error.text);
}

Test(device_choice, a_name_is_known_as_the_probe_has_written_it)
{
    struct model_gpus gpus = {.found = true};
    struct lode_error error = {0};
    uint32_t index[LODE_PLAN_GPUS] = {9, 9, 9, 9};
    know("GPU?? of ? kind", "hip");
    know("unknown GPU", "cuda");
    use(&gpus, "cuda0", "");
    use(&gpus, "hip0", "GPU\xc2\xae of \x01 kind");
    cr_assert_eq(model_gpus_match(index, &gpus, &profile, &error), 0, "%s", error.text);
    cr_expect(index[0] == 1 && index[1] == 0, "%u %u", index[0], index[1]);
}

Test(device_choice, a_card_of_another_backend_or_name_is_another_card)
{
    static const char *const others[][2] = {
        {"hip0", "RTX 4070"}, {"cuda0", "RTX 4070 Ti"}, {"cuda0", "RTX 407"}, {"simt0", "RTX 4070"}};
    uint32_t index[LODE_PLAN_GPUS];
    know("RTX 4070", "cuda");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct model_gpus gpus = {.found = true};
        struct lode_error error = {0};
        use(&gpus, others[i][0], others[i][1]);
        cr_expect_eq(model_gpus_match(index, &gpus, &profile, &error), LODE_ERR_ARGUMENT, "%s", others[i][1]);
        cr_expect(strstr(error.text, "placed by rule"), "%s", error.text);
    }
}
