/* Opens while a timer signals every 5 ms: every open has to come to its end, and none may fail.
 * signals BIG SMALL ROUNDS: BIG takes longer than 5 ms to be decrypted. Prints "ok N" (signals). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int ticks;
static char **names;
static void tick(int number) { (void)number; ticks++; }

static void *work(void *unused)
{
    for (int i = 0; i < atoi(names[3]); i++) {
        struct stat found;
        int fd = open(names[2], O_RDONLY);
        if (fd < 0 || stat(names[2], &found) || close(fd)) {
            printf("round %d: %s\n", i, strerror(errno));
            exit(1);
        }
    }
    return unused;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 5000}, {0, 5000}};
    pthread_t threads[3];
    names = argv;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    int fd = open(argv[1], O_RDONLY);
    if (argc != 4 || fd < 0) {
        printf("big: %s\n", strerror(errno));
        return 1;
    }
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    while (ticks < 20)
        work(NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("ok %d\n", ticks);
    return 0;
}
