/* AArch64: where a program begins, and how it calls the kernel. */

#define NR_DUP3 24
#define NR_FCNTL 25
#define NR_OPENAT 56
#define NR_WRITE 64
#define NR_READLINKAT 78
#define NR_EXIT_GROUP 94
#define NR_PRCTL 167
#define NR_GETPID 172
#define NR_EXECVE 221
#define NR_MMAP 222
#define NR_MEMFD_CREATE 279
#define NR_STATX 291

#define O_NOFOLLOW 0100000

/* The kernel gives argc, argv, 0, environment, 0 on the stack. */
#define BEGIN(function)                                                                            \
    __asm__(".globl _start\n"                                                                      \
            ".type _start, %function\n"                                                            \
            "_start:\n"                                                                            \
            "    mov x29, #0\n"                                                                    \
            "    mov x30, #0\n"                                                                    \
            "    mov x0, sp\n"                                                                     \
            "    bl " #function "\n"                                                               \
            "    brk #0\n")

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
