/* A forking server on a pipe: each child answers with a file of the region, at its own offset.
 * forking FILE CHILDREN: prints how many children read the whole file right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int same(struct stat *a, struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mode == b->st_mode && a->st_uid == b->st_uid && a->st_nlink == b->st_nlink &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static int serve(const char *path)
{
    struct stat before, after, named;
    char first[2] = {0}, second[2] = {0};
    if (stat(path, &before))
        return 2;
    int one = open(path, O_RDONLY | O_CLOEXEC), two = open(path, O_RDONLY);
    if (one < 0 || two < 0 || fstat(one, &after) || lstat(path, &named))
        return 3;
    if (!same(&before, &after) || !same(&before, &named))
        return 4;
    /* Offsets are not shared between opens, and flags are as asked. */
    if (read(one, first, 1) != 1 || read(two, second, 1) != 1 || first[0] != second[0])
        return 5;
    if (fcntl(one, F_GETFD) != FD_CLOEXEC || fcntl(two, F_GETFD) != 0)
        return 6;
    if (write(two, "x", 1) >= 0 || fcntl(two, F_GETFL) & O_ACCMODE)
        return 7;
    char *map = mmap(NULL, before.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, one, 0);
    if (map == MAP_FAILED || map[0] != first[0] || map[before.st_size - 1] != 'z')
        return 8;
    if (mmap(NULL, 1, PROT_WRITE, MAP_SHARED, one, 0) != MAP_FAILED)
        return 9;
    /* Through /proc it is the same file, and no more writable. */
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", one);
    int again = open(name, O_RDONLY), writing = open(name, O_RDWR);
    if (again < 0 || fstat(again, &after) || !same(&before, &after))
        return 10;
    if (writing >= 0)
        return 11;
    char link[4096] = {0};
    if (readlink(name, link, sizeof link - 1) < 0 || strcmp(link, path))
        return 12;
    return 0;
}

int main(int argc, char **argv)
{
    int children = atoi(argv[2]), good = 0, status;
    for (int i = 0; i < children; i++)
        if (fork() == 0)
            _exit(serve(argv[1]));
    while (wait(&status) > 0)
        if (status)
            printf("child: %d\n", WEXITSTATUS(status));
        else
            good++;
    printf("%d\n", good);
    return argc != 3;
}
