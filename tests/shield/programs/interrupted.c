/* One signal, without SA_RESTART, while an open is being answered: it has to wait for the answer.
 * interrupted BIG: BIG takes much longer than 5 ms to be decrypted. Prints "opened N" (signals). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

static volatile int ticks;
static void tick(int number) { (void)number; ticks++; }

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = tick};
    struct itimerval once = {{0, 0}, {0, 5000}};
    if (argc != 2)
        return 1;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &once, NULL);
    if (open(argv[1], O_RDONLY) < 0)
        printf("%s\n", strerror(errno));
    else
        printf("opened %d\n", ticks);
    return 0;
}
