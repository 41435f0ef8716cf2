/* Prints its arguments, what it is called by, and its executable; once more after a re-exec through
 * /proc/self/exe. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char name[4096] = "";
    ssize_t size = readlink("/proc/self/exe", name, sizeof name - 1);
    printf("%s|%s|%.*s\n", argv[0], argc > 1 ? argv[1] : "", (int)(size < 0 ? 0 : size), name);
    fflush(stdout);
    if (argc > 1 && strcmp(argv[1], "again") == 0) {
        char *next[] = {argv[0], "last", NULL};
        execv("/proc/self/exe", next);
        perror("execv");
        return 1;
    }
    return 0;
}
