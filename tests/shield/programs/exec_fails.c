/* Tries to execute each argument and prints the error; the process has to go on as before. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *next[] = {argv[i], NULL};
        execv(argv[i], next);
        printf("%s\n", strerrorname_np(errno));
    }
    return 0;
}
