/* Starts a program many times, from several threads at once, by fork, vfork and posix_spawn in turn,
 * while a timer interrupts every 5 ms. Prints how many starts did not end with status 0.
 * exec_storm PROGRAM STARTS THREADS */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static const char *program;
static int starts, bad;
static volatile int ticks;

static void tick(int number) { (void)number; ticks++; }

static int once(int how) {
    char *argv[] = {"name", "-n", "", NULL};
    pid_t pid;
    int status;
    if (how == 0) {
        pid = fork();
        if (pid == 0) { execv(program, argv); _exit(99); }
    } else if (how == 1) {
        pid = vfork();
        if (pid == 0) { execv(program, argv); _exit(99); }
    } else {
        int error = posix_spawn(&pid, program, NULL, NULL, argv, environ);
        if (error) return 1;
    }
    pid_t ended;
    while ((ended = waitpid(pid, &status, 0)) < 0 && errno == EINTR) ;
    return ended < 0 || status != 0;
}

static void *work(void *unused) {
    (void)unused;
    for (int i = 0; i < starts; i++)
        if (once(i % 3)) __sync_fetch_and_add(&bad, 1);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    program = argv[1];
    starts = atoi(argv[2]);
    int threads = atoi(argv[3]);
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &every, NULL);
    pthread_t thread[16];
    for (int i = 0; i < threads; i++) pthread_create(&thread[i], NULL, work, NULL);
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    printf("bad %d of %d, ticks %s\n", bad, starts * threads, ticks ? "yes" : "no");
    return bad != 0;
}
