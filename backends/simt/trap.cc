#include "backends/simt/trap.h"

#include "backends/simt/runner.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

// A signal's handler is the process's, so what it needs is too.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
#define SIGNALS 5
static const int signals[SIGNALS] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
static struct sigaction before_ours[SIGNALS];
static __thread stack_t before_stack __attribute__((tls_model("initial-exec")));

static void pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *before = before_ours;
    for (int i = 0; i < SIGNALS; i++)
        if (signals[i] == number)
            before = &before_ours[i];
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(number, info, context);
    else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
        before->sa_handler(number);
    else if (before->sa_handler == SIG_DFL || info->si_code > 0) { // a fault cannot be ignored
        struct sigaction action = {};
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
        raise(number); // which comes when the handler returns
    }
}

// Where the kernel's thread comes out of the signal, on its own stack.
static void leave()
{
    runner_give_up();
}

static void handle(int number, siginfo_t *info, void *memory)
{
    struct simt_runner *runner = runner_here();
    // A signal that someone sent, or outside of a kernel, is not ours.
    if (!runner || !runner->in_kernel || info->si_code <= 0) {
        pass_on(number, info, memory);
        return;
    }
    ucontext_t *context = static_cast<ucontext_t *>(memory);
    struct simt_lane *lane = simt_now;
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    const uintptr_t stack = reinterpret_cast<uintptr_t>(lane->fibre->stack);
    if (number == SIGFPE)
        runner->fault = RUNNER_DIVISION;
    else if (number != SIGSEGV && number != SIGBUS)
        runner->fault = RUNNER_TRAPPED;
    else
        runner->fault =
            address < stack && stack - address <= FIBRE_GUARD_BYTES ? RUNNER_STACK : RUNNER_ACCESS;
    runner->fault_lane = lane;
    runner->address = address;
    runner->access = 0;
    runner->in_kernel = 0;

    // The thread goes on in leave(), at the top of its stack, whose content nobody wants.
    fibre_clear(lane->fibre);
    const uintptr_t top = (stack + lane->fibre->stack_bytes - 256) / 64 * 64;
#if defined __x86_64__
    runner->access =
        context->uc_mcontext.gregs[REG_TRAPNO] == 14 ? (context->uc_mcontext.gregs[REG_ERR] & 2 ? 2 : 1) : 0;
    context->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - sizeof(void *));
    context->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(leave));
#elif defined __aarch64__
    context->uc_mcontext.sp = top;
    context->uc_mcontext.pc = reinterpret_cast<uintptr_t>(leave);
#else
    (void)context, (void)top;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    leave();
#endif
}

void trap_open()
{
    pthread_mutex_lock(&lock);
    if (users++ == 0) {
        struct sigaction action = {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        for (int i = 0; i < SIGNALS; i++)
            sigaction(signals[i], &action, &before_ours[i]);
    }
    pthread_mutex_unlock(&lock);
}

static void put_back(int number, const struct sigaction *before)
{
    struct sigaction now;
    if (sigaction(number, NULL, &now) == 0 && now.sa_flags & SA_SIGINFO && now.sa_sigaction == handle)
        sigaction(number, before, NULL);
}

void trap_close()
{
    pthread_mutex_lock(&lock);
    if (--users == 0)
        for (int i = 0; i < SIGNALS; i++)
            put_back(signals[i], &before_ours[i]);
    pthread_mutex_unlock(&lock);
}

void trap_thread_begin(void *stack, size_t bytes)
{
    stack_t ours = {};
    ours.ss_sp = stack;
    ours.ss_size = bytes;
    sigaltstack(&ours, &before_stack);
}

// Sanitizers unmap what they find there when the thread ends.
void trap_thread_end()
{
    sigaltstack(&before_stack, NULL);
}
