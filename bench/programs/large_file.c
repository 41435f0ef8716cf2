/* Reads FILE whole, ROUNDS times, in blocks of 1 MiB; prints the bytes per second of each round,
 * the open counted in. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc != 3) { fprintf(stderr, "usage: large_file FILE ROUNDS\n"); return 2; }
    size_t size = 1 << 20;
    char *data = malloc(size);
    for (int round = 0; round < atoi(argv[2]); round++) {
        double start = now();
        int fd = open(argv[1], O_RDONLY);
        if (fd < 0) { perror(argv[1]); return 1; }
        double total = 0;
        ssize_t n;
        while ((n = read(fd, data, size)) > 0) total += (double)n;
        if (n < 0) { perror(argv[1]); return 1; }
        close(fd);
        printf("%.0f\n", total / (now() - start));
        fflush(stdout);
    }
    return 0;
}
