/* Executes its second argument from a thread that is not the first one, by a relative directory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static char **words;
extern char **environ;

static void *run(void *unused) {
    (void)unused;
    int directory = open(words[1], O_RDONLY | O_DIRECTORY);
    char *next[] = {words[2], "from a thread", NULL};
    syscall(SYS_execveat, directory, words[2], next, environ, 0);
    perror("execveat");
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    words = argv;
    pthread_t thread;
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, NULL);
    return 3;
}
