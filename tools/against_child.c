// Making the runs: each a child of this command line, in a control group where the comparison needs one, with
// nothing of the model in the page cache.
#include "tools/against.h"

#include "tools/against_group.h"
#include "tools/cache_dir.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/text.h"

#include "placement/heat.h"
#include "profiles/host_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOLD_BYTES = 400 };

struct driver {
    struct against *against;
    const char *path; // of the model
    int argc;
    char **argv;
    char **files; // of the model
    size_t n_files;
    char heat_file[MODEL_PATH_SIZE]; // where warm starts come from; empty: none
    struct progress progress;
};

// ---- the page cache
// ------------------------------------------------------------------------------------------

static int list_files(struct driver *d, struct lode_error *error)
{
    struct lode_file *file;
    int code = lode_file_open(&file, d->path, error);
    if (code)
        return code;
    const size_t n = lode_file_tensor_count(file);
    for (size_t i = 0; i < n && !code; i++) {
        struct lode_tensor_info tensor;
        size_t known = 0;
        lode_file_tensor(file, i, &tensor);
        while (known < d->n_files && strcmp(d->files[known], tensor.file) != 0)
            known++;
        if (known < d->n_files)
            continue;
        char **files = realloc(d->files, (d->n_files + 1) * sizeof *files);
        d->files = files ? files : d->files;
        char *copy = files ? strdup(tensor.file) : NULL;
        if (copy)
            d->files[d->n_files++] = copy;
        else
            code = lode_fail(error, LODE_ERR_MEMORY, "no memory for the paths of the model's files");
    }
    lode_file_close(file);
    return code;
}

// Pages that another program maps stay; nothing can be done about them here.
static void drop_pages(const struct driver *d)
{
    for (size_t i = 0; i < d->n_files; i++) {
        const int fd = open(d->files[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

// ---- heat for warm starts
// ------------------------------------------------------------------------------------

// A cache folder of the child's own with a copy of the heat: what a run adds to it ends with the run.
struct cache_copy {
    char folder[64], file[256]; // folder is empty where there is none
};

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static void cache_remove(struct cache_copy *cache)
{
    if (cache->folder[0])
        nftw(cache->folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    cache->folder[0] = '\0';
}

static bool copy_file(const char *to, const char *from)
{
    char bytes[16 << 10];
    size_t n;
    FILE *in = fopen(from, "re"), *out = in ? fopen(to, "wxe") : NULL;
    bool good = in && out;
    while (good && (n = fread(bytes, 1, sizeof bytes, in)) > 0)
        good = fwrite(bytes, 1, n, out) == n;
    good = good && !ferror(in);
    if (in)
        fclose(in);
    if (out && fclose(out) != 0)
        good = false;
    return good;
}

static int cache_make(struct cache_copy *cache, const struct driver *d, struct lode_error *error)
{
    char folder[sizeof cache->folder + 16];
    *cache = (struct cache_copy){.folder = ""};
    if (!d->heat_file[0])
        return LODE_OK;
    snprintf(cache->folder, sizeof cache->folder, "/tmp/lode-bench-XXXXXX");
    bool good = mkdtemp(cache->folder) != NULL;
    if (!good)
        cache->folder[0] = '\0';
    static const char *const below[] = {"/lode", "/lode/heat"};
    for (size_t i = 0; i < sizeof below / sizeof *below && good; i++) {
        snprintf(folder, sizeof folder, "%s%s", cache->folder, below[i]);
        good = mkdir(folder, 0700) == 0;
    }
    if (good) {
        snprintf(cache->file, sizeof cache->file, "%s/%s", folder, strrchr(d->heat_file, '/') + 1);
        good = copy_file(cache->file, d->heat_file);
    }
    if (good)
        return LODE_OK;
    const int cause = errno;
    cache_remove(cache);
    return lode_fail(error, LODE_ERR_IO, "cannot copy %s for a run: %s", d->heat_file, strerror(cause));
}

static int find_heat(struct driver *d, struct lode_error *error)
{
    char folder[MODEL_PATH_SIZE];
    if (!d->against->warm)
        return LODE_OK;
    if (cache_dir_heat(folder, sizeof folder) &&
        heat_file_path(d->heat_file, sizeof d->heat_file, folder, d->against->provenance.fingerprint) &&
        access(d->heat_file, R_OK) == 0)
        return LODE_OK;
    return lode_fail(
        error, LODE_ERR_IO,
        "no heat of earlier runs is kept for this model, so there is no warm start: run it first "
        "(lode run), or leave out --warm");
}

// ---- a child
// -------------------------------------------------------------------------------------------------

// Between fork and exec, where only system calls are safe.
static void become_run(char **argv, char **environment, int out, int err, const struct memory_group *group)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (group->version && !memory_group_enter(group))
        _exit(126);
    if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
        _exit(127);
    execve("/proc/self/exe", argv, environment);
    _exit(127);
}

// The command line with the run behind the subcommand's name. The texts are the caller's.
static char **run_arguments(const struct driver *d, char *turn)
{
    char **argv = calloc((size_t)d->argc + 4, sizeof *argv);
    int n = 0;
    if (!argv)
        return NULL;
    argv[n++] = (char *)"lode";
    argv[n++] = (char *)"bench";
    argv[n++] = turn;
    for (int i = 1; i < d->argc; i++)
        argv[n++] = d->argv[i];
    return argv;
}

static char **run_environment(char *cache_variable)
{
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **out = calloc(n + 2, sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        if (!cache_variable || strncmp(environ[i], "XDG_CACHE_HOME=", 15) != 0)
            out[kept++] = environ[i];
    if (out && cache_variable)
        out[kept] = cache_variable;
    return out;
}

// Reads to the end of the pipe; a signal that came to us alone goes on to the child.
static bool read_output(struct text *out, int fd, pid_t child)
{
    char bytes[4096];
    bool told = false;
    for (;;) {
        if (!told && !interrupt_wait_readable(fd)) {
            kill(child, SIGTERM);
            told = true;
        }
        const ssize_t n = read(fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        if (!text_append(out, bytes, (size_t)n))
            return false;
    }
}

// The last of what a child has said on stderr.
static void last_words(char *out, size_t capacity, int fd)
{
    const off_t end = lseek(fd, 0, SEEK_END), start = end > TOLD_BYTES ? end - TOLD_BYTES : 0;
    const ssize_t n = pread(fd, out, capacity - 1 < TOLD_BYTES ? capacity - 1 : TOLD_BYTES, start);
    size_t len = n > 0 ? (size_t)n : 0;
    while (len && out[len - 1] == '\n')
        len--;
    out[len] = '\0';
    char *line = strrchr(out, '\n');
    if (line)
        memmove(out, line + 1, strlen(line + 1) + 1);
}

static int tell_failure(int status, int err, const struct memory_group *group, const char *arm,
                        struct lode_error *error)
{
    char words[TOLD_BYTES + 1];
    if (interrupt_pending())
        return lode_fail(error, LODE_ERR_CANCELLED, "interrupted");
    if (group->version && memory_group_was_killed(group))
        return lode_fail(error, LODE_ERR_MEMORY, "the run of %s was killed: out of memory within its limit",
                         arm);
    if (WIFSIGNALED(status))
        return lode_fail(error, LODE_ERR_IO, "the run of %s was killed by signal %d", arm, WTERMSIG(status));
    last_words(words, sizeof words, err);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 126 && !words[0])
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the run of %s was not let into the control group %s: start this as root", arm,
                         group->path);
    return lode_fail(error, LODE_ERR_IO, "the run of %s failed: %s", arm,
                     words[0] ? words : "it said nothing");
}

static int collect(struct against_run *run, pid_t child, int out, int err, const struct memory_group *group,
                   const char *arm, struct lode_error *error)
{
    struct text text = {0};
    int status = 0;
    const bool whole = read_output(&text, out, child);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    int code;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        code = tell_failure(status, err, group, arm, error);
    else if (!whole)
        code = lode_fail(error, LODE_ERR_IO, "what the run of %s says cannot be read", arm);
    else
        code = against_read_run(run, text.bytes ? text.bytes : "", text.len, error);
    text_free(&text);
    return code;
}

static int start_run(struct against_run *run, const struct driver *d, char *turn, char *cache_variable,
                     const struct memory_group *group, const char *arm, struct lode_error *error)
{
    int ends[2] = {-1, -1};
    const int err = memfd_create("lode-bench-stderr", MFD_CLOEXEC);
    char **argv = run_arguments(d, turn), **environment = run_environment(cache_variable);
    int code = LODE_OK;
    pid_t child = -1;
    if (!argv || !environment)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory to start a run");
    else if (err < 0 || pipe2(ends, O_CLOEXEC) != 0 || (child = fork()) < 0)
        code = lode_fail(error, LODE_ERR_IO, "cannot start a run: %s", strerror(errno));
    if (child == 0)
        become_run(argv, environment, ends[1], err, group);
    if (ends[1] >= 0)
        close(ends[1]);
    if (!code)
        code = collect(run, child, ends[0], err, group, arm, error);
    if (ends[0] >= 0)
        close(ends[0]);
    if (err >= 0)
        close(err);
    free(environment);
    free(argv);
    return code;
}

// ---- a run
// ---------------------------------------------------------------------------------------------------

static int make_run(struct against_run *run, const struct driver *d, enum against_arm arm, uint32_t round,
                    struct lode_error *error)
{
    const struct against *against = d->against;
    char turn[64], variable[128];
    struct cache_copy cache;
    struct memory_group group = {0};
    snprintf(turn, sizeof turn, "--against-run=%s:%" PRIu32, against_arm_name(arm), round);
    int code = cache_make(&cache, d, error);
    if (code)
        return code;
    snprintf(variable, sizeof variable, "XDG_CACHE_HOME=%s", cache.folder);
    if (against->in_groups)
        code = memory_group_open(&group, against->ram_bytes, error);
    if (!code) {
        drop_pages(d);
        code =
            start_run(run, d, turn, cache.folder[0] ? variable : NULL, &group, against_arm_name(arm), error);
    }
    if (!code && group.version) {
        const uint64_t peak_bytes = memory_group_peak_bytes(&group);
        run->peak_bytes = peak_bytes ? peak_bytes : run->peak_bytes;
    }
    memory_group_close(&group);
    cache_remove(&cache);
    return code;
}

// The round's first run says what the right tokens are.
static int check_tokens(struct against *against, uint32_t round, uint32_t arm, uint32_t first,
                        struct lode_error *error)
{
    const struct against_run *run = against_run_at(against, round, arm),
                             *right = against_run_at(against, round, first);
    uint32_t same = 0;
    while (same < run->n_ids && same < right->n_ids && run->ids[same] == right->ids[same])
        same++;
    if (same == run->n_ids && same == right->n_ids)
        return LODE_OK;
    if (run->n_gpus || right->n_gpus) {
        against->same_ids = same < against->same_ids ? same : against->same_ids;
        return LODE_OK;
    }
    return lode_fail(
        error, LODE_ERR_FORMAT,
        "%s and %s generate other tokens from the same prompt, from token %" PRIu32 " on (round %" PRIu32
        "): their speeds are not of the same work. This is a bug of lode, or the "
        "machine's memory is at fault",
        against_arm_name(against->arms[first]), against_arm_name(against->arms[arm]), same + 1, round + 1);
}

static int make_round(struct driver *d, uint32_t round, struct lode_error *error)
{
    struct against *against = d->against;
    const uint32_t first = against_turn_at(round, 0, against->n_arms);
    for (uint32_t i = 0; i < against->n_arms; i++) {
        const uint32_t arm = against_turn_at(round, i, against->n_arms);
        char what[64];
        snprintf(what, sizeof what, "round %" PRIu32 ", %s", round + 1, against_arm_name(against->arms[arm]));
        if (!progress_show(&d->progress, what, (uint64_t)round * against->n_arms + i,
                           (uint64_t)against->repeats * against->n_arms))
            return lode_fail(error, LODE_ERR_CANCELLED, "interrupted");
        int code = make_run(against_run_at(against, round, arm), d, against->arms[arm], round, error);
        if (!code)
            code = check_tokens(against, round, arm, first, error);
        if (code)
            return code;
    }
    return LODE_OK;
}

// Of a comparison with mapped files all arms have the kernel's ceiling, for equal footing.
static void settle_groups(struct against *against)
{
    bool maps = false;
    struct host_memory memory;
    for (uint32_t i = 0; i < against->n_arms; i++)
        maps = maps || against->arms[i] == AGAINST_MMAP;
    if (!maps || !against->ram_bytes)
        return;
    against->in_present_group =
        host_memory_read(&memory, "/", NULL) == 0 && memory.limit_bytes <= against->ram_bytes;
    against->in_groups = !against->in_present_group;
}

int against_measure(struct against *against, const char *path, int argc, char **argv,
                    struct lode_error *error)
{
    struct driver d = {.against = against, .path = path, .argc = argc, .argv = argv};
    against->same_ids = against->decode;
    against->runs = calloc((size_t)against->repeats * against->n_arms, sizeof *against->runs);
    int code = against->runs ? list_files(&d, error)
                             : lode_fail(error, LODE_ERR_MEMORY, "no memory for the results");
    if (!code)
        code = find_heat(&d, error);
    if (!code)
        settle_groups(against);
    progress_begin(&d.progress);
    for (uint32_t round = 0; round < against->repeats && !code; round++)
        code = make_round(&d, round, error);
    progress_end(&d.progress);
    for (size_t i = 0; i < d.n_files; i++)
        free(d.files[i]);
    free(d.files);
    against->interrupted = code == LODE_ERR_CANCELLED && interrupt_pending();
    return against->interrupted ? LODE_OK : code;
}
