/* A thread gives up root for itself alone and executes this program: it goes on under the number of
 * the first thread, which was root and opened the file until that moment. threadexec FILE */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;
static char **words;

static void *leave(void *unused)
{
    char *again[] = {words[0], words[1], "again", NULL};
    usleep(2000);
    syscall(SYS_setresgid, 65534, 65534, 65534);
    syscall(SYS_setresuid, 65534, 65534, 65534);
    execve(words[0], again, environ);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int fd = open(argv[1], O_RDONLY);
    words = argv;
    if (argc == 3) {
        printf("%s\n", fd < 0 ? strerrorname_np(errno) : "opened");
        return 0;
    }
    pthread_create(&thread, NULL, leave, NULL);
    for (;;)
        close(open(argv[1], O_RDONLY));
}
