/* What a command and all its children use, printed as one number on standard error:
 *
 *   usage peak CMD...            the largest resident set of one of them, in KiB
 *   usage instructions CMD...    instructions in user mode, all of them stepped through
 *
 * In C, since a process's peak is at least that of the program that started it. Single steps, since a virtual machine
 * has no counters and valgrind knows neither clone3(2) nor the new mount calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int main_status;

static long peak(pid_t child)
{
    struct rusage usage;
    if (wait4(child, &main_status, 0, &usage) != child)
        return -1;
    return usage.ru_maxrss;
}

static long instructions(pid_t child)
{
    long count = 0, options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |
                              PTRACE_O_EXITKILL;
    int status;
    if (waitpid(child, &status, 0) != child || ptrace(PTRACE_SETOPTIONS, child, 0, options))
        return -1;
    ptrace(PTRACE_SINGLESTEP, child, 0, 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            return errno == ECHILD ? count : -1;
        if (!WIFSTOPPED(status)) {
            if (pid == child)
                main_status = status;
            continue;
        }
        int signal = WSTOPSIG(status);
        /* An event, or the first stop of a child that is followed. */
        if (status >> 16 || signal == SIGSTOP)
            signal = 0;
        else if (signal == SIGTRAP) {
            count++;
            signal = 0;
        }
        ptrace(PTRACE_SINGLESTEP, pid, 0, signal);
    }
}

int main(int argc, char **argv)
{
    int stepping = argc > 2 && !strcmp(argv[1], "instructions");
    if (!stepping && !(argc > 2 && !strcmp(argv[1], "peak"))) {
        fprintf(stderr, "usage peak|instructions CMD...\n");
        return 2;
    }
    pid_t child = stepping ? fork() : vfork();
    if (child == 0) {
        if (stepping)
            ptrace(PTRACE_TRACEME, 0, 0, 0);
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    long number = stepping ? instructions(child) : peak(child);
    fprintf(stderr, "%ld\n", number);
    return number < 0 || !WIFEXITED(main_status) || WEXITSTATUS(main_status);
}
