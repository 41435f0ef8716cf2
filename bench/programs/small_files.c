/* Opens, reads and closes files DIR/0 … DIR/COUNT-1 in turn, once to warm up and then for SECONDS;
 * prints how many per second. Every byte is added up, so that nothing is optimised away. */
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

static unsigned long sum;

static void one(const char *dir, int number) {
    char path[4096], data[4096];
    snprintf(path, sizeof path, "%s/%d", dir, number);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { perror(path); exit(1); }
    ssize_t n = read(fd, data, sizeof data);
    if (n < 0) { perror(path); exit(1); }
    for (ssize_t i = 0; i < n; i++) sum += (unsigned char)data[i];
    close(fd);
}

int main(int argc, char **argv) {
    if (argc != 4) { fprintf(stderr, "usage: small_files DIR COUNT SECONDS\n"); return 2; }
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    for (int i = 0; i < count; i++) one(argv[1], i);
    double start = now(), end = start;
    long done = 0;
    while (end - start < seconds) {
        for (int i = 0; i < 100; i++, done++) one(argv[1], (int)(done % count));
        end = now();
    }
    printf("%.1f %lu\n", (double)done / (end - start), sum & 255);
    return 0;
}
