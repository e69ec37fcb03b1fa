// What `lode info --cpu` prints, as text and as JSON.
#include "tools/info_cpu.h"

#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/text.h"

#include <stdlib.h>
#include <string.h>

#define PLACES_WIDTH 100

// Arrays of fixed size hold the first of what there is.
static uint32_t held(uint32_t count, uint32_t capacity)
{
    return count < capacity ? count : capacity;
}

static const char *plural(uint32_t n)
{
    return n == 1 ? "" : "s";
}

// ---- text
// ----------------------------------------------------------------------------------------------------

static void print_kind(const struct lode_cpu_kind *kind)
{
    printf("%u %s%score%s", kind->n_cores, kind->name, kind->name[0] ? "-" : "", plural(kind->n_cores));
    if (kind->n_hardware_threads > kind->n_cores)
        printf(" with %u hardware threads each", kind->n_hardware_threads / kind->n_cores);
    if (kind->max_mhz)
        printf(", up to %.1f GHz", kind->max_mhz / 1e3);
}

static void print_cores(const struct lode_cpu *cpu)
{
    printf("processor    %s\n", cpu->model[0] ? cpu->model : "not told by the system");
    printf("cores        %u physical, %u hardware thread%s\n", cpu->n_cores, cpu->n_hardware_threads,
           plural(cpu->n_hardware_threads));
    for (uint32_t i = 0; cpu->n_kinds > 1 && i < held(cpu->n_kinds, LODE_CPU_KINDS); i++) {
        printf("             ");
        print_kind(&cpu->kinds[i]);
        printf("%s\n", i ? "" : " (the fastest)");
    }
}

static void print_memory(const struct lode_cpu *cpu)
{
    char bytes[TEXT_NUMBER_SIZE];
    const char *label = "caches";
    for (uint32_t i = 0; i < held(cpu->n_caches, LODE_CPU_CACHES); i++, label = "") {
        const struct lode_cpu_cache *cache = &cpu->caches[i];
        printf("%-13sL%u%s %u x %s, one for %u core%s\n", label, cache->level, cache->level == 1 ? "d" : " ",
               cache->count, text_bytes(bytes, cache->bytes), cache->n_cores, plural(cache->n_cores));
    }
    label = "NUMA nodes";
    for (uint32_t i = 0; i < held(cpu->n_nodes, LODE_CPU_NODES); i++, label = "") {
        const struct lode_cpu_node *node = &cpu->nodes[i];
        printf("%-13s%u: %u core%s, %s\n", label, node->os_index, node->n_cores, plural(node->n_cores),
               node->memory_bytes ? text_bytes(bytes, node->memory_bytes) : "memory not told by the system");
    }
    printf("huge pages   %s\n", cpu->huge_pages[0] ? cpu->huge_pages : "not told by the system");
}

static void print_features(const struct lode_cpu *cpu, bool present, const char *label)
{
    uint32_t printed = 0;
    for (uint32_t i = 0; i < held(cpu->n_features, LODE_CPU_FEATURES); i++)
        if (cpu->features[i].present == present)
            printf("%s%s", printed++ ? " " : label, cpu->features[i].name);
    if (printed)
        printf("\n");
}

static void print_isas(const struct lode_cpu *cpu)
{
    printf("\nkernels\n");
    for (uint32_t i = 0; i < cpu->n_isas; i++) {
        const struct lode_cpu_isa *isa = &cpu->isas[i];
        printf("%c %-11s%s%s\n", isa->chosen ? '*' : ' ', isa->name, isa->summary,
               isa->chosen ? " (chosen)" : "");
        if (!isa->available)
            printf("             not here: %s\n", isa->missing);
    }
}

static void print_reason(const struct lode_cpu *cpu, uint32_t asked)
{
    printf("\nthreads      %u, %s", cpu->n_threads,
           asked                                   ? "as asked for"
           : cpu->n_threads < cpu->n_cores_allowed ? "as many as the quota pays for"
                                                   : "one for each core that may be used");
    if (cpu->n_threads > cpu->processors)
        printf("; they take turns on %u processor%s", cpu->processors, plural(cpu->processors));
    printf("\n");
    printf("affinity     %u of %u cores, %u of %u hardware threads: %s\n", cpu->n_cores_allowed, cpu->n_cores,
           cpu->n_hardware_threads_allowed, cpu->n_hardware_threads, cpu->affinity);
    if (cpu->quota_processors > 0)
        printf("CPU quota    %.4g processors, of the control group\n", cpu->quota_processors);
    else
        printf("CPU quota    none\n");
}

static void print_places(const struct lode_cpu *cpu)
{
    if (!cpu->placed) {
        printf("places       none: where the system puts them\n");
        return;
    }
    int width = printf("places       %s for the caller", cpu->places[0]);
    for (uint32_t i = 1; i < cpu->n_threads; i++) {
        width += printf("%s", i == 1 ? "; workers on" : "");
        if (width + 1 + (int)strlen(cpu->places[i]) > PLACES_WIDTH)
            width = printf("\n            ") - 1;
        width += printf(" %s", cpu->places[i]);
    }
    printf("\n");
}

static void print_text(const struct lode_cpu *cpu, uint32_t asked)
{
    print_cores(cpu);
    print_memory(cpu);
    print_features(cpu, true, "has          ");
    print_features(cpu, false, "lacks        ");
    print_isas(cpu);
    print_reason(cpu, asked);
    print_places(cpu);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static json_t *text_json(const char *text)
{
    return text[0] ? json_out_text(text, strlen(text)) : json_null();
}

static json_t *kinds_json(const struct lode_cpu *cpu)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < held(cpu->n_kinds, LODE_CPU_KINDS); i++) {
        const struct lode_cpu_kind *kind = &cpu->kinds[i];
        json_array_append_new(
            array,
            json_pack("{s:o,s:I,s:I,s:o}", "name", text_json(kind->name), "cores", (json_int_t)kind->n_cores,
                      "hardware_threads", (json_int_t)kind->n_hardware_threads, "max_mhz",
                      kind->max_mhz ? json_integer((json_int_t)kind->max_mhz) : json_null()));
    }
    return array;
}

static json_t *caches_json(const struct lode_cpu *cpu)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < held(cpu->n_caches, LODE_CPU_CACHES); i++) {
        const struct lode_cpu_cache *cache = &cpu->caches[i];
        json_array_append_new(array,
                              json_pack("{s:I,s:I,s:I,s:I}", "level", (json_int_t)cache->level, "bytes",
                                        (json_int_t)cache->bytes, "cores", (json_int_t)cache->n_cores,
                                        "count", (json_int_t)cache->count));
    }
    return array;
}

static json_t *nodes_json(const struct lode_cpu *cpu)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < held(cpu->n_nodes, LODE_CPU_NODES); i++) {
        const struct lode_cpu_node *node = &cpu->nodes[i];
        json_array_append_new(
            array,
            json_pack("{s:I,s:I,s:o}", "node", (json_int_t)node->os_index, "cores", (json_int_t)node->n_cores,
                      "memory_bytes",
                      node->memory_bytes ? json_integer((json_int_t)node->memory_bytes) : json_null()));
    }
    return array;
}

static json_t *features_json(const struct lode_cpu *cpu)
{
    json_t *object = json_object();
    for (uint32_t i = 0; i < held(cpu->n_features, LODE_CPU_FEATURES); i++)
        json_object_set_new(object, cpu->features[i].name, json_boolean(cpu->features[i].present));
    return object;
}

static json_t *isas_json(const struct lode_cpu *cpu)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < held(cpu->n_isas, LODE_CPU_ISAS); i++) {
        const struct lode_cpu_isa *isa = &cpu->isas[i];
        json_array_append_new(array, json_pack("{s:s,s:s,s:b,s:b,s:o}", "name", isa->name, "summary",
                                               isa->summary, "available", isa->available, "chosen",
                                               isa->chosen, "missing", text_json(isa->missing)));
    }
    return array;
}

static json_t *places_json(const struct lode_cpu *cpu)
{
    if (!cpu->placed)
        return json_null();
    json_t *array = json_array();
    for (uint32_t i = 0; i < held(cpu->n_threads, LODE_CPU_THREADS); i++)
        json_array_append_new(array, json_string(cpu->places[i]));
    return array;
}

static void print_json(const struct lode_cpu *cpu)
{
    const struct {
        const char *name;
        uint32_t value;
    } counts[] = {
        {"cores", cpu->n_cores},
        {"hardware_threads", cpu->n_hardware_threads},
        {"cores_allowed", cpu->n_cores_allowed},
        {"hardware_threads_allowed", cpu->n_hardware_threads_allowed},
        {"processors", cpu->processors},
        {"threads", cpu->n_threads},
    };
    json_t *object = json_object();
    json_object_set_new(object, "model", text_json(cpu->model));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(object, counts[i].name, json_integer((json_int_t)counts[i].value));
    json_object_set_new(object, "affinity", text_json(cpu->affinity));
    json_object_set_new(object, "quota_processors",
                        cpu->quota_processors > 0 ? json_out_number(cpu->quota_processors) : json_null());
    json_object_set_new(object, "places", places_json(cpu));
    json_object_set_new(object, "kinds", kinds_json(cpu));
    json_object_set_new(object, "caches", caches_json(cpu));
    json_object_set_new(object, "numa_nodes", nodes_json(cpu));
    json_object_set_new(object, "huge_pages", text_json(cpu->huge_pages));
    json_object_set_new(object, "features", features_json(cpu));
    json_object_set_new(object, "kernels", isas_json(cpu));
    json_out_print(stdout, object);
}

// ---- both
// ----------------------------------------------------------------------------------------------------

int info_cpu(const char *command, uint32_t threads, bool json)
{
    struct lode_error error;
    struct lode_cpu *cpu = malloc(sizeof *cpu);
    int code = cpu ? lode_cpu_describe(cpu, threads, &error)
                   : lode_fail(&error, LODE_ERR_MEMORY, "no memory for the table of the processor");
    if (!code && json)
        print_json(cpu);
    else if (!code)
        print_text(cpu, threads);
    free(cpu);
    return code ? message_failed(command, &error) : EXIT_OK;
}
