/* A child of vfork executes, parent and child open the same name at once: each has to get its own
 * path read, not the other's. exec_spawn_reads CAT FILE */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    for (int i = 0; i < 100; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            char *next[] = {argv[1], argv[2], NULL};
            execv(argv[1], next);
            _exit(99);
        }
        char data[64] = "";
        int file = open(argv[2], O_RDONLY);
        if (file < 0 || read(file, data, sizeof data - 1) < 0) return 3;
        close(file);
        if (strcmp(data, "content\n") != 0) return 4;
        int status;
        if (waitpid(pid, &status, 0) != pid || status != 0) return 5;
    }
    return 0;
}
