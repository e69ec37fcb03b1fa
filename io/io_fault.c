// The scripted faults for tests; see io_fault.h.
//
// A read is begun, waits for what its rule says and is ended; threads do all of it in io_fault_read, for the
// ring the kernel waits. Holding is waiting until a descriptor is readable, which both can.
#include "io/io_fault.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000
#define POISON 0xee

struct fault_file {
    dev_t device;
    ino_t inode;
};

struct io_fault {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int released_fd; // readable once io_fault_release was called
    uint32_t n_rules;
    struct io_fault_rule rules[IO_FAULT_MAX_RULES]; // skip and times count down
    struct fault_file files[IO_FAULT_MAX_RULES];
    uint64_t n_reads;
    uint32_t n_held, n_reading, most_reading;
    uint64_t started_at[IO_FAULT_LOG_READS];
};

static int find_file(struct fault_file *out, const char *path, struct lode_error *error)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return lode_fail(error, LODE_ERR_IO, "a fault rule names %s: %s", path, strerror(errno));
    *out = (struct fault_file){status.st_dev, status.st_ino};
    return 0;
}

int io_fault_new(struct io_fault **out, const struct io_fault_rule *rules, uint32_t n_rules,
                 struct lode_error *error)
{
    if (n_rules > IO_FAULT_MAX_RULES)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u fault rules; at most %d", n_rules, IO_FAULT_MAX_RULES);
    struct io_fault *fault = calloc(1, sizeof *fault);
    if (!fault)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the fault rules");
    pthread_mutex_init(&fault->lock, NULL);
    pthread_cond_init(&fault->changed, NULL);
    fault->released_fd = eventfd(0, EFD_CLOEXEC);
    int code = 0;
    if (fault->released_fd < 0)
        code = lode_fail(error, LODE_ERR_IO, "no descriptor to hold reads with: %s", strerror(errno));
    for (; code == 0 && fault->n_rules < n_rules; fault->n_rules++) {
        uint32_t i = fault->n_rules;
        fault->rules[i] = rules[i];
        if (rules[i].path)
            code = find_file(&fault->files[i], rules[i].path, error);
    }
    if (code != 0) {
        io_fault_free(fault);
        return code;
    }
    *out = fault;
    return 0;
}

void io_fault_free(struct io_fault *fault)
{
    if (!fault)
        return;
    if (fault->released_fd >= 0)
        close(fault->released_fd);
    pthread_cond_destroy(&fault->changed);
    pthread_mutex_destroy(&fault->lock);
    free(fault);
}

static bool is_file(const struct fault_file *file, int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode;
}

static bool rule_strikes(struct io_fault_rule *rule, const struct fault_file *file, int fd, size_t length,
                         uint64_t offset)
{
    if (rule->end != 0 && (offset >= rule->end || offset + length <= rule->offset))
        return false;
    if (rule->path && !is_file(file, fd))
        return false;
    if (rule->skip > 0) {
        rule->skip--;
        return false;
    }
    if (rule->times == 0)
        return false;
    if (rule->times != IO_FAULT_ALWAYS)
        rule->times--;
    return true;
}

// 0, or the number of a rule from 1: what io_delay carries as its cookie.
static uint32_t find_rule(struct io_fault *fault, int fd, size_t length, uint64_t offset)
{
    for (uint32_t i = 0; i < fault->n_rules; i++) {
        if (rule_strikes(&fault->rules[i], &fault->files[i], fd, length, offset))
            return i + 1;
    }
    return 0;
}

static void begin(void *user, struct io_delay *out, int fd, size_t length, uint64_t offset)
{
    struct io_fault *fault = user;
    pthread_mutex_lock(&fault->lock);
    if (fault->n_reads < IO_FAULT_LOG_READS)
        fault->started_at[fault->n_reads] = offset;
    fault->n_reads++;
    if (++fault->n_reading > fault->most_reading)
        fault->most_reading = fault->n_reading;
    uint32_t number = find_rule(fault, fd, length, offset);
    const struct io_fault_rule *rule = number ? &fault->rules[number - 1] : NULL;
    bool held = rule && rule->kind == IO_FAULT_HOLD;
    *out = (struct io_delay){
        .until_readable_fd = held ? fault->released_fd : -1,
        .delay_ns = rule && rule->kind == IO_FAULT_DELAY ? rule->delay_ns : 0,
        .cookie = number,
    };
    if (held) {
        fault->n_held++;
        pthread_cond_broadcast(&fault->changed);
    }
    pthread_mutex_unlock(&fault->lock);
}

static int64_t apply(const struct io_fault_rule *rule, void *buffer, int64_t result)
{
    if (result < 0)
        return result;
    if (rule->kind == IO_FAULT_ERROR) {
        memset(buffer, POISON, (size_t)result);
        return -rule->error_number;
    }
    if (rule->kind == IO_FAULT_SHORT && (uint64_t)result > rule->short_bytes) {
        memset((char *)buffer + rule->short_bytes, POISON, (size_t)result - rule->short_bytes);
        return (int64_t)rule->short_bytes;
    }
    return result;
}

static int64_t end(void *user, uint64_t cookie, void *buffer, int64_t result)
{
    struct io_fault *fault = user;
    pthread_mutex_lock(&fault->lock);
    fault->n_reading--;
    const struct io_fault_rule *rule = cookie ? &fault->rules[cookie - 1] : NULL;
    fault->n_held -= rule && rule->kind == IO_FAULT_HOLD;
    pthread_mutex_unlock(&fault->lock);
    return rule ? apply(rule, buffer, result) : result;
}

struct io_hooks io_fault_hooks(struct io_fault *fault)
{
    return (struct io_hooks){.read = io_fault_read, .begin = begin, .end = end, .user = fault};
}

int64_t io_fault_read(void *user, int fd, void *buffer, size_t length, uint64_t offset)
{
    struct io_delay delay;
    begin(user, &delay, fd, length, offset);
    struct pollfd held = {.fd = delay.until_readable_fd, .events = POLLIN};
    if (held.fd >= 0)
        poll(&held, 1, -1);
    if (delay.delay_ns > 0)
        nanosleep(&(struct timespec){delay.delay_ns / NS_PER_S, delay.delay_ns % NS_PER_S}, NULL);
    return end(user, delay.cookie, buffer, io_pread(NULL, fd, buffer, length, offset));
}

void io_fault_wait_until_held(struct io_fault *fault, uint32_t n_reads)
{
    pthread_mutex_lock(&fault->lock);
    while (fault->n_held < n_reads)
        pthread_cond_wait(&fault->changed, &fault->lock);
    pthread_mutex_unlock(&fault->lock);
}

void io_fault_release(struct io_fault *fault)
{
    (void)!write(fault->released_fd, &(uint64_t){1}, sizeof(uint64_t));
}

uint64_t io_fault_read_count(struct io_fault *fault)
{
    pthread_mutex_lock(&fault->lock);
    uint64_t n = fault->n_reads;
    pthread_mutex_unlock(&fault->lock);
    return n;
}

uint32_t io_fault_most_reads_at_once(struct io_fault *fault)
{
    pthread_mutex_lock(&fault->lock);
    uint32_t n = fault->most_reading;
    pthread_mutex_unlock(&fault->lock);
    return n;
}

uint64_t io_fault_started_at(struct io_fault *fault, uint64_t n)
{
    pthread_mutex_lock(&fault->lock);
    uint64_t offset = n < fault->n_reads && n < IO_FAULT_LOG_READS ? fault->started_at[n] : UINT64_MAX;
    pthread_mutex_unlock(&fault->lock);
    return offset;
}
