/* Opens a file by the i386 interface, int 0x80, where open is 5. Prints the raw result.
 * The path has to lie below 4 GiB: it is static. Signal 11 where the kernel lacks the interface. */
#include <stdio.h>
#include <string.h>

static char path[4096];

int main(int argc, char **argv)
{
    int result = -1;
    if (argc != 2)
        return 1;
    strncpy(path, argv[1], sizeof path - 1);
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(5), "b"((unsigned)(unsigned long)path), "c"(0), "d"(0)
                     : "memory", "r8", "r9", "r10", "r11");
#endif
    printf("%d\n", result);
    return 0;
}
