// The scripted reading function for tests; see io_fault.h.
#include "io/io_fault.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000

struct io_fault {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t n_rules;
    struct io_fault_rule rules[IO_FAULT_MAX_RULES]; // skip and times count down
    bool released;
    uint64_t n_reads;
    uint32_t n_held, n_reading, most_reading;
};

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
    fault->n_rules = n_rules;
    if (n_rules > 0)
        memcpy(fault->rules, rules, n_rules * sizeof rules[0]);
    *out = fault;
    return 0;
}

void io_fault_free(struct io_fault *fault)
{
    if (!fault)
        return;
    pthread_cond_destroy(&fault->changed);
    pthread_mutex_destroy(&fault->lock);
    free(fault);
}

static bool rule_strikes(struct io_fault_rule *rule, size_t length, uint64_t offset)
{
    if (rule->end != 0 && (offset >= rule->end || offset + length <= rule->offset))
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

static bool find_rule(struct io_fault_rule *out, struct io_fault *fault, size_t length, uint64_t offset)
{
    for (uint32_t i = 0; i < fault->n_rules; i++) {
        if (rule_strikes(&fault->rules[i], length, offset)) {
            *out = fault->rules[i];
            return true;
        }
    }
    return false;
}

static void hold(struct io_fault *fault)
{
    fault->n_held++;
    pthread_cond_broadcast(&fault->changed);
    while (!fault->released)
        pthread_cond_wait(&fault->changed, &fault->lock);
    fault->n_held--;
}

static int64_t read_with_fault(const struct io_fault_rule *rule, int fd, void *buffer, size_t length,
                               uint64_t offset)
{
    if (rule->kind == IO_FAULT_ERROR)
        return -rule->error_number;
    if (rule->kind == IO_FAULT_DELAY)
        nanosleep(&(struct timespec){rule->delay_ns / NS_PER_S, rule->delay_ns % NS_PER_S}, NULL);
    if (rule->kind == IO_FAULT_SHORT && length > rule->short_bytes)
        length = rule->short_bytes;
    return length == 0 ? 0 : io_pread(NULL, fd, buffer, length, offset);
}

int64_t io_fault_read(void *user, int fd, void *buffer, size_t length, uint64_t offset)
{
    struct io_fault *fault = user;
    struct io_fault_rule rule;
    pthread_mutex_lock(&fault->lock);
    fault->n_reads++;
    if (++fault->n_reading > fault->most_reading)
        fault->most_reading = fault->n_reading;
    bool struck = find_rule(&rule, fault, length, offset);
    if (struck && rule.kind == IO_FAULT_HOLD)
        hold(fault);
    pthread_mutex_unlock(&fault->lock);

    int64_t result = struck ? read_with_fault(&rule, fd, buffer, length, offset)
                            : io_pread(NULL, fd, buffer, length, offset);

    pthread_mutex_lock(&fault->lock);
    fault->n_reading--;
    pthread_mutex_unlock(&fault->lock);
    return result;
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
    pthread_mutex_lock(&fault->lock);
    fault->released = true;
    pthread_cond_broadcast(&fault->changed);
    pthread_mutex_unlock(&fault->lock);
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
