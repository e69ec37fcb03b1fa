#include "backends/simt/stream.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

// ---- events

struct simt_event *simt_event_open(bool timed)
{
    struct simt_event *event = static_cast<struct simt_event *>(calloc(1, sizeof *event));
    if (!event)
        return NULL;
    pthread_mutex_init(&event->lock, NULL);
    pthread_cond_init(&event->changed, NULL);
    event->owners = 1;
    event->timed = timed;
    return event;
}

void simt_event_release(struct simt_event *event)
{
    pthread_mutex_lock(&event->lock);
    const uint32_t owners = --event->owners;
    pthread_mutex_unlock(&event->lock);
    if (owners)
        return;
    pthread_cond_destroy(&event->changed);
    pthread_mutex_destroy(&event->lock);
    free(event);
}

void simt_event_wait_for(struct simt_event *event, uint64_t record)
{
    pthread_mutex_lock(&event->lock);
    while (event->done < record)
        pthread_cond_wait(&event->changed, &event->lock);
    pthread_mutex_unlock(&event->lock);
}

static void come(struct simt_event *event, uint64_t record)
{
    pthread_mutex_lock(&event->lock);
    if (record > event->done) {
        event->done = record;
        event->time_ns = clock_now_ns();
    }
    pthread_cond_broadcast(&event->changed);
    pthread_mutex_unlock(&event->lock);
}

// ---- commands

static void launch(struct simt_stream *stream, struct simt_runner *runner, const struct simt_command *command,
                   uint64_t number)
{
    struct simt_place place = {{0, 0, 0}, command->block, command->grid};
    uint64_t block = number; // so that a grid of one block goes both ways in turn, too
    for (place.block.z = 0; place.block.z < command->grid.z; place.block.z++)
        for (place.block.y = 0; place.block.y < command->grid.y; place.block.y++)
            for (place.block.x = 0; place.block.x < command->grid.x; place.block.x++, block++)
                if (!runner_block(runner, &place, command->run, command->arguments, block % 2)) {
                    char text[768], near[128], all[960];
                    runner_tell(runner, command->name, text, sizeof text);
                    if (runner->fault == RUNNER_ACCESS) {
                        simt_memory_near(&stream->context->memory, runner->address, near, sizeof near);
                        snprintf(all, sizeof all, "%s (%s)", text, near);
                        simt_context_fail(stream->context, all);
                    } else {
                        simt_context_fail(stream->context, text);
                    }
                    return;
                }
}

static void sleep_until(uint64_t end_ns)
{
    struct timespec end = {static_cast<time_t>(end_ns / 1000000000u),
                           static_cast<long>(end_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
        ;
}

static void copy(struct gpu_context *context, const struct simt_command *command)
{
    struct simt_link *link = &context->link;
    uint64_t end_ns = 0;
    if (command->copy != GPU_COPY_WITHIN && (link->gbps > 0 || link->latency_ns)) {
        const uint64_t now_ns = clock_now_ns();
        pthread_mutex_lock(&link->lock);
        uint64_t *free_at_ns = &link->free_at_ns[command->copy == GPU_COPY_OUT];
        const uint64_t start_ns = *free_at_ns > now_ns ? *free_at_ns : now_ns;
        const double bytes_ns = link->gbps > 0 ? static_cast<double>(command->bytes) / link->gbps : 0;
        *free_at_ns = start_ns + static_cast<uint64_t>(bytes_ns);
        end_ns = *free_at_ns + link->latency_ns;
        pthread_mutex_unlock(&link->lock);
    }
    memmove(command->to, command->from, command->bytes);
    if (end_ns)
        sleep_until(end_ns);
}

static void execute(struct simt_stream *stream, struct simt_runner *runner,
                    const struct simt_command *command, uint64_t number)
{
    const bool skip = simt_context_faulted(stream->context);
    switch (command->kind) {
    case SIMT_LAUNCH:
        if (!skip)
            launch(stream, runner, command, number);
        break;
    case SIMT_COPY:
        if (!skip)
            copy(stream->context, command);
        break;
    case SIMT_ZERO:
        if (!skip)
            memset(command->to, 0, command->bytes);
        break;
    case SIMT_RECORD:
        come(command->event, command->record);
        simt_event_release(command->event);
        break;
    case SIMT_ORDER:
        simt_event_wait_for(command->event, command->record);
        simt_event_release(command->event);
        break;
    }
}

static void *work(void *memory)
{
    struct simt_stream *stream = static_cast<struct simt_stream *>(memory);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); // copies end when the link says
    struct simt_runner *runner = runner_begin();
    pthread_mutex_lock(&stream->lock);
    stream->began = runner ? 1 : -1;
    pthread_cond_broadcast(&stream->done_more);
    while (runner) {
        while (stream->done == stream->given && !stream->closing) {
            stream->sleeps = true;
            pthread_cond_wait(&stream->given_more, &stream->lock);
            stream->sleeps = false;
        }
        if (stream->done == stream->given)
            break;
        const uint64_t number = stream->done;
        pthread_mutex_unlock(&stream->lock);
        execute(stream, runner, &stream->ring[number % SIMT_QUEUE], number);
        pthread_mutex_lock(&stream->lock);
        if (++stream->done >= stream->wake_at) {
            stream->wake_at = UINT64_MAX;
            pthread_cond_broadcast(&stream->done_more);
        }
    }
    pthread_mutex_unlock(&stream->lock);
    runner_end(runner);
    return NULL;
}

// The stream is locked.
static void wait_until_done(struct simt_stream *stream, uint64_t done)
{
    while (stream->done < done) {
        if (done < stream->wake_at)
            stream->wake_at = done;
        pthread_cond_wait(&stream->done_more, &stream->lock);
    }
}

struct simt_command *simt_stream_take(struct simt_stream *stream, enum simt_command_kind kind)
{
    pthread_mutex_lock(&stream->lock);
    // Who waits comes back when there is room for many, not to wait again at the next.
    while (stream->given - stream->done == SIMT_QUEUE)
        wait_until_done(stream, stream->given - SIMT_QUEUE / 2);
    struct simt_command *command = &stream->ring[stream->given % SIMT_QUEUE];
    command->kind = kind;
    return command;
}

void simt_stream_give(struct simt_stream *stream)
{
    stream->given++;
    if (stream->sleeps)
        pthread_cond_signal(&stream->given_more);
    pthread_mutex_unlock(&stream->lock);
}

void simt_stream_wait(struct simt_stream *stream)
{
    pthread_mutex_lock(&stream->lock);
    wait_until_done(stream, stream->given);
    pthread_mutex_unlock(&stream->lock);
}

// ---- open and close

static void free_stream(struct simt_stream *stream)
{
    pthread_cond_destroy(&stream->given_more);
    pthread_cond_destroy(&stream->done_more);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

int simt_stream_open(struct gpu_context *context, struct simt_stream **out, struct lode_error *error)
{
    *out = NULL;
    void *memory = calloc(1, sizeof(struct simt_stream));
    if (!memory)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for a stream", context->name);
    struct simt_stream *stream = static_cast<struct simt_stream *>(memory);
    stream->context = context;
    stream->wake_at = UINT64_MAX;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->given_more, NULL);
    pthread_cond_init(&stream->done_more, NULL);
    const int failed = pthread_create(&stream->thread, NULL, work, stream);
    if (failed) {
        free_stream(stream);
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no thread for a stream: %s", context->name,
                         strerror(failed));
    }
    pthread_mutex_lock(&stream->lock);
    while (!stream->began)
        pthread_cond_wait(&stream->done_more, &stream->lock);
    const bool works = stream->began > 0;
    pthread_mutex_unlock(&stream->lock);
    if (!works) {
        pthread_join(stream->thread, NULL);
        free_stream(stream);
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for the stacks of a stream", context->name);
    }
    pthread_mutex_lock(&context->streams_lock);
    stream->next = context->streams;
    context->streams = stream;
    pthread_mutex_unlock(&context->streams_lock);
    *out = stream;
    return 0;
}

void simt_stream_close(struct simt_stream *stream)
{
    struct gpu_context *context = stream->context;
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    pthread_cond_signal(&stream->given_more);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    pthread_mutex_lock(&context->streams_lock);
    struct simt_stream **link = &context->streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    pthread_mutex_unlock(&context->streams_lock);
    free_stream(stream);
}
