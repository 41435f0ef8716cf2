/* A child of vfork asks while it shares its parent's memory, then executes this program again and
 * asks from its own. Whoever kept a handle to the shared memory would read the wrong path.
 * vforked REGION ROUNDS: prints "ok", or what went wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char shared[4096];

static int holds(const char *path, const char *expected)
{
    char content[64] = {0};
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, content, sizeof content - 1) < 0)
        return 0;
    close(fd);
    return !strcmp(content, expected);
}

int main(int argc, char **argv)
{
    if (argc == 4) {
        /* The same static address as in the parent, another path in it. */
        snprintf(shared, sizeof shared, "%s/child", argv[1]);
        return !(holds(shared, "child") && holds(argv[2], "parent"));
    }
    char parent[4096];
    snprintf(parent, sizeof parent, "%s/parent", argv[1]);
    for (int i = 0; i < atoi(argv[2]); i++) {
        strcpy(shared, parent);
        char *words[] = {argv[0], argv[1], parent, "again", NULL};
        int status;
        pid_t child = vfork();
        if (child == 0) {
            int fd = open(shared, O_RDONLY);
            if (fd < 0)
                _exit(9);
            execve(argv[0], words, environ);
            _exit(8);
        }
        if (!holds(shared, "parent") || waitpid(child, &status, 0) != child || status) {
            printf("round %d: status %x\n", i, status);
            return 1;
        }
    }
    puts("ok");
    return 0;
}
