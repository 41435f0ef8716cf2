/* Changes who it is, and opens; prints a line for each step. users FILE DIRECTORY_FILE */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char **names;

static void try(const char *step, const char *path)
{
    int fd = open(path, O_RDONLY);
    printf("%s %s\n", step, fd < 0 ? strerrorname_np(errno) : "opened");
    if (fd >= 0)
        close(fd);
    fflush(stdout);
}

static void *other(void *unused)
{
    /* Of this thread only. */
    syscall(SYS_setfsuid, 65534);
    syscall(SYS_setfsgid, 65534);
    try("thread-fsuid", names[1]);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    gid_t group = 65534;
    names = argv;
    try("root", argv[1]);
    pthread_create(&thread, NULL, other, NULL);
    pthread_join(thread, NULL);
    try("root-still", argv[1]);
    if (fork() == 0) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none[2] = {0};
        setresuid(65534, 0, 0);
        printf("access-real %s\n", access(argv[1], R_OK) ? strerrorname_np(errno) : "allowed");
        printf("access-effective %s\n",
               faccessat(AT_FDCWD, argv[1], R_OK, AT_EACCESS) ? strerrorname_np(errno) : "allowed");
        setresuid(0, 0, 0);
        setgroups(1, &group);
        setresgid(65534, 65534, 65534);
        syscall(SYS_capset, &header, none);
        try("no-capabilities-owner", argv[1]);
        exit(0);
    }
    wait(NULL);
    if (fork() == 0) {
        setgroups(1, &group);
        setresgid(65534, 65534, 65534);
        setresuid(65534, 65534, 65534);
        try("nobody", argv[1]);
        try("nobody-in-directory", argv[2]);
        exit(0);
    }
    wait(NULL);
    try("root-last", argv[1]);
    return argc != 3;
}
