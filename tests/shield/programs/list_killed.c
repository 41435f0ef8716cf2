/* Threads list a directory all the time, and their process is replaced or killed under them.
 * list_killed exec ROUNDS DIRECTORY: the first thread executes this program again, ROUNDS times.
 * list_killed kill ROUNDS DIRECTORY: ROUNDS children that do so are killed; each has to be reaped.
 * list_killed stop ROUNDS DIRECTORY: a child is stopped and continued ROUNDS times, then asked for
 * what it saw. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *directory;
static volatile int bad, stop, expected = -1;

static int names(void) {
    int count = 0;
    DIR *stream = opendir(directory);
    if (!stream) return -1;
    while (readdir(stream)) count++;
    closedir(stream);
    return count;
}

static void *work(void *unused) {
    (void)unused;
    while (!stop) if (names() != expected) bad = 1;
    return NULL;
}

static void end(int number) { (void)number; stop = 1; }

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int rounds = atoi(argv[2]);
    directory = argv[3];
    expected = names();
    pthread_t thread[4];
    if (!strcmp(argv[1], "exec")) {
        if (rounds == 0) { puts("done"); return 0; }
        for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, work, NULL);
        usleep(3000 + rounds % 7 * 500);
        if (bad) return 3;
        char left[16];
        snprintf(left, sizeof left, "%d", rounds - 1);
        char *next[] = {argv[0], argv[1], left, argv[3], NULL};
        execv(argv[0], next);
        return 4;
    }
    int killed = !strcmp(argv[1], "kill");
    for (int i = 0; i < (killed ? rounds : 1); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGTERM, end);
            for (int j = 0; j < 2; j++) pthread_create(&thread[j], NULL, work, NULL);
            for (int j = 0; j < 2; j++) pthread_join(thread[j], NULL);
            _exit(bad);
        }
        int status;
        if (killed) {
            usleep(2000 + i % 11 * 300);
            kill(pid, SIGKILL);
            if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status)) return 5;
            continue;
        }
        for (int j = 0; j < rounds; j++) {
            usleep(1000);
            kill(pid, SIGSTOP);
            if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status)) return 6;
            kill(pid, SIGCONT);
        }
        kill(pid, SIGTERM);
        if (waitpid(pid, &status, 0) != pid || status != 0) return 7;
    }
    puts("done");
    return 0;
}
