// `lode info`: what a model file says about itself, without loading its weights; or what the processor is.
#include "tools/command.h"
#include "tools/info_cpu.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

static const char command[] = "lode info";

static const char usage[] =
    "Usage: lode info [OPTION]... [FILE]\n"
    "       lode info --cpu [-t N] [--json]\n"
    "\n"
    "Shows the hyperparameters of a GGUF file, its weights grouped as they are placed in memory, and\n"
    "what the KV cache takes. Of a file with a vocabulary only it shows what is there.\n"
    "\n"
    "  --tensors          list every tensor as well\n"
    "  --json             one JSON object\n"
    "  -m, --model FILE   the same as FILE\n"
    "  --cpu              instead of a file, the processor: cores, caches, memory nodes, instruction\n"
    "                     sets, and the threads that would be used, where and why\n"
    "  -t, --threads N    with --cpu: as if N threads were asked for\n"
    "\n"
    "Exit: 0 done, 1 failed, 2 usage.\n"
    "\n"
    "Examples:\n"
    "  lode info gemma-4-26B-A4B-it-Q4_0.gguf\n"
    "  lode info --tensors --json m.gguf | jq '.tensors[] | select(.type == \"Q6_K\") | .name'\n";

struct info {
    struct model_options model;
    uint32_t threads;
    bool tensors, json, cpu;
    struct lode_file *file;
    struct lode_shape shape;
    bool runnable;            // the shape is there
    struct lode_error reason; // else why not
    uint32_t vocab;           // of the tokenizer; 0 without one
};

static bool parse(struct info *info, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_TEXT("model", 'm', &info->model.path),
        OPTION_IS_FLAG("tensors", 0, &info->tensors),
        OPTION_IS_FLAG("json", 0, &info->json),
        OPTION_IS_FLAG("cpu", 0, &info->cpu),
        OPTION_IS_COUNT("threads", 't', &info->threads, 1, LODE_CPU_THREADS),
    };
    const char *operand = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &operand,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    if (operand && info->model.path) {
        *exit_code = message_usage(command, "-m and '%s' are two files; give one of them", operand);
        return false;
    }
    if (operand)
        info->model.path = operand;
    if (info->cpu && (info->model.path || info->tensors)) {
        *exit_code = message_usage(command, "--cpu does not go with a file and --tensors");
        return false;
    }
    if (info->threads && !info->cpu) {
        *exit_code = message_usage(command, "--threads goes with --cpu");
        return false;
    }
    return true;
}

static uint64_t kv_bytes(const struct lode_shape *shape, uint32_t context)
{
    return shape->kv_fixed_bytes + shape->kv_bytes_per_token * context;
}

// The contexts whose cache is told: 8K, 32K and the limit, as far as the model goes.
static size_t kv_contexts(const struct lode_shape *shape, uint32_t out[3])
{
    static const uint32_t usual[] = {8192, 32768};
    size_t count = 0;
    for (size_t i = 0; i < 2; i++)
        if (usual[i] < shape->context_limit)
            out[count++] = usual[i];
    out[count++] = shape->context_limit;
    return count;
}

// ---- text
// ----------------------------------------------------------------------------------------------------

static void print_experts_and_ple(const struct lode_shape *s)
{
    if (s->n_experts)
        printf("experts      %u a layer, %u used, width %u\n", s->n_experts, s->n_experts_used,
               s->expert_width);
    if (s->ple_width)
        printf("per-layer embedding   width %u\n", s->ple_width);
}

static void print_shape(const struct lode_shape *s)
{
    char all[TEXT_NUMBER_SIZE], read[TEXT_NUMBER_SIZE], weights[TEXT_NUMBER_SIZE];
    char name[sizeof s->name];
    printf("model        %s (%s)\n", text_printable(name, sizeof name, s->name), s->size);
    printf("parameters   %s, %s read for a token\n", text_count(all, s->parameters),
           text_count(read, s->parameters_per_token));
    printf("weights      %s\n", text_bytes(weights, s->weight_bytes));
    printf("layers       %u: %u local (window %u), %u global; %u share the KV cache of others\n", s->n_layers,
           s->n_layers - s->n_global_layers, s->window, s->n_global_layers, s->n_shared_kv_layers);
    printf("heads        %u; KV heads %u of %u values (local), %u of %u (global)\n", s->n_heads,
           s->n_kv_heads_local, s->head_size_local, s->n_kv_heads_global, s->head_size_global);
    printf("hidden       %u; dense FFN %u", s->hidden, s->ffn_width_min);
    if (s->ffn_width_max != s->ffn_width_min)
        printf(" to %u", s->ffn_width_max);
    printf("\n");
    print_experts_and_ple(s);
    printf("vocabulary   %u\n", s->vocab);
    printf("context      %u\n", s->context_limit);
    printf("RoPE base    %g (local), %g (global)\n", (double)s->rope_base_local, (double)s->rope_base_global);
    if (s->final_softcap > 0)
        printf("soft cap     %g\n", (double)s->final_softcap);
}

static void print_kv(const struct lode_shape *shape)
{
    char fixed[TEXT_NUMBER_SIZE], total[TEXT_NUMBER_SIZE];
    printf("KV cache     %s and %" PRIu64 " bytes a token (F16):", text_bytes(fixed, shape->kv_fixed_bytes),
           shape->kv_bytes_per_token);
    uint32_t contexts[3];
    size_t count = kv_contexts(shape, contexts);
    for (size_t i = 0; i < count; i++)
        printf("%s %s at %u", i ? "," : "", text_bytes(total, kv_bytes(shape, contexts[i])), contexts[i]);
    printf("\n");
}

static uint64_t groups_bytes(const struct lode_file *file)
{
    uint64_t total = 0;
    for (size_t i = 0; i < lode_file_group_count(file); i++) {
        struct lode_group group;
        lode_file_group(file, i, &group);
        total += group.bytes;
    }
    return total;
}

static void print_groups(const struct lode_file *file)
{
    const uint64_t total = groups_bytes(file);
    if (!lode_file_group_count(file))
        return;
    printf("\n%-22s %7s  %-18s %12s %7s\n", "units", "count", "types", "bytes", "share");
    for (size_t i = 0; i < lode_file_group_count(file); i++) {
        struct lode_group group;
        char bytes[TEXT_NUMBER_SIZE];
        lode_file_group(file, i, &group);
        printf("%-22s %7" PRIu64 "  %-18s %12s %6.1f%%\n", group.kind, group.units, group.types,
               text_bytes(bytes, group.bytes), total ? 100.0 * (double)group.bytes / (double)total : 0.0);
    }
}

static void print_tensors(const struct lode_file *file)
{
    printf("\n%-40s %-8s %-24s %12s  %s\n", "tensor", "type", "shape", "bytes", "unit");
    for (size_t i = 0; i < lode_file_tensor_count(file); i++) {
        struct lode_tensor_info tensor;
        lode_file_tensor(file, i, &tensor);
        char dims[96] = "";
        size_t used = 0;
        for (uint32_t d = 0; d < tensor.n_dims && d < 4; d++)
            used +=
                (size_t)snprintf(dims + used, sizeof dims - used, "%s%" PRIu64, d ? " x " : "", tensor.ne[d]);
        char name[128];
        printf("%-40s %-8s %-24s %12" PRIu64 "  %s\n", text_printable(name, sizeof name, tensor.name),
               tensor.type, dims, tensor.bytes, tensor.unit_kind ? tensor.unit_kind : "-");
    }
}

static void print_text(const struct info *info)
{
    if (info->runnable) {
        print_shape(&info->shape);
        print_kv(&info->shape);
    } else {
        printf("vocabulary   %u\n", info->vocab);
        printf("tensors      %zu\n", lode_file_tensor_count(info->file));
    }
    print_groups(info->file);
    if (info->tensors)
        print_tensors(info->file);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static json_t *json_size(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *shape_json(const struct lode_shape *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        {"n_layers", s->n_layers},
        {"n_global_layers", s->n_global_layers},
        {"n_shared_kv_layers", s->n_shared_kv_layers},
        {"hidden", s->hidden},
        {"vocab", s->vocab},
        {"context_limit", s->context_limit},
        {"window", s->window},
        {"n_heads", s->n_heads},
        {"n_kv_heads_local", s->n_kv_heads_local},
        {"n_kv_heads_global", s->n_kv_heads_global},
        {"head_size_local", s->head_size_local},
        {"head_size_global", s->head_size_global},
        {"ffn_width_min", s->ffn_width_min},
        {"ffn_width_max", s->ffn_width_max},
        {"n_experts", s->n_experts},
        {"n_experts_used", s->n_experts_used},
        {"expert_width", s->expert_width},
        {"ple_width", s->ple_width},
        {"parameters", s->parameters},
        {"parameters_per_token", s->parameters_per_token},
        {"weight_bytes", s->weight_bytes},
        {"kv_fixed_bytes", s->kv_fixed_bytes},
        {"kv_bytes_per_token", s->kv_bytes_per_token},
    };
    json_t *object = json_object();
    json_object_set_new(object, "name", json_out_text(s->name, strlen(s->name)));
    json_object_set_new(object, "size", json_out_text(s->size, strlen(s->size)));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(object, counts[i].name, json_size(counts[i].value));
    json_object_set_new(object, "rope_base_local", json_out_number((double)s->rope_base_local));
    json_object_set_new(object, "rope_base_global", json_out_number((double)s->rope_base_global));
    json_object_set_new(object, "final_softcap", json_out_number((double)s->final_softcap));
    return object;
}

static json_t *kv_json(const struct lode_shape *shape)
{
    json_t *array = json_array();
    uint32_t contexts[3];
    size_t count = kv_contexts(shape, contexts);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_pack("{s:o,s:o}", "context", json_size(contexts[i]), "bytes",
                                               json_size(kv_bytes(shape, contexts[i]))));
    return array;
}

static json_t *groups_json(const struct lode_file *file)
{
    json_t *array = json_array();
    for (size_t i = 0; i < lode_file_group_count(file); i++) {
        struct lode_group group;
        lode_file_group(file, i, &group);
        json_array_append_new(array, json_pack("{s:s,s:s,s:o,s:o,s:o}", "kind", group.kind, "types",
                                               group.types, "units", json_size(group.units), "parameters",
                                               json_size(group.parameters), "bytes", json_size(group.bytes)));
    }
    return array;
}

static json_t *tensors_json(const struct lode_file *file)
{
    json_t *array = json_array();
    for (size_t i = 0; i < lode_file_tensor_count(file); i++) {
        struct lode_tensor_info tensor;
        lode_file_tensor(file, i, &tensor);
        json_t *dims = json_array();
        for (uint32_t d = 0; d < tensor.n_dims && d < 4; d++)
            json_array_append_new(dims, json_size(tensor.ne[d]));
        json_t *object = json_object();
        json_object_set_new(object, "name", json_out_text(tensor.name, strlen(tensor.name)));
        json_object_set_new(object, "type", json_string(tensor.type));
        json_object_set_new(object, "shape", dims);
        json_object_set_new(object, "bytes", json_size(tensor.bytes));
        json_object_set_new(object, "offset", json_size(tensor.offset));
        json_object_set_new(object, "file", json_out_text(tensor.file, strlen(tensor.file)));
        json_object_set_new(object, "unit", tensor.unit_kind ? json_string(tensor.unit_kind) : json_null());
        json_array_append_new(array, object);
    }
    return array;
}

static void print_json(const struct info *info)
{
    json_t *object = json_object();
    json_object_set_new(object, "file", json_out_text(info->model.path, strlen(info->model.path)));
    json_object_set_new(object, "runnable", json_boolean(info->runnable));
    if (info->runnable) {
        json_object_set_new(object, "shape", shape_json(&info->shape));
        json_object_set_new(object, "kv_cache", kv_json(&info->shape));
        json_object_set_new(object, "groups", groups_json(info->file));
    } else {
        json_object_set_new(object, "missing", json_out_text(info->reason.text, strlen(info->reason.text)));
        json_object_set_new(object, "vocab", json_size(info->vocab));
    }
    if (info->tensors)
        json_object_set_new(object, "tensors", tensors_json(info->file));
    json_out_print(stdout, object);
}

// ---- the command
// ---------------------------------------------------------------------------------------------

// A file that is no model may still hold a vocabulary; one that holds neither is an error.
static int look_inside(struct info *info, struct lode_error *error)
{
    int code = lode_file_open(&info->file, info->model.path, error);
    if (code)
        return code;
    info->runnable = lode_file_shape(info->file, &info->shape, &info->reason) == LODE_OK;
    if (info->runnable)
        return LODE_OK;
    struct lode_tokenizer *tokenizer = NULL;
    struct lode_error ignored;
    if (lode_tokenizer_open(&tokenizer, info->model.path, &ignored)) {
        *error = info->reason;
        return error->code;
    }
    info->vocab = lode_vocab_size(tokenizer);
    lode_tokenizer_close(tokenizer);
    return LODE_OK;
}

static int execute(struct info *info)
{
    int code = model_find(&info->model, command);
    if (code)
        return code;
    struct lode_error error = {0};
    if (look_inside(info, &error))
        return message_failed(command, &error);
    if (!info->runnable)
        message_note(command, "a vocabulary, but no model: %s", info->reason.text);
    if (info->json)
        print_json(info);
    else
        print_text(info);
    return EXIT_OK;
}

int cmd_info(int argc, char **argv)
{
    struct info info = {0};
    int code;
    if (parse(&info, argc, argv, &code))
        code = info.cpu ? info_cpu(command, info.threads, info.json) : execute(&info);
    lode_file_close(info.file);
    return code;
}
