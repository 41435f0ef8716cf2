/* x86-64: where a program begins, and how it calls the kernel. */

#define NR_WRITE 1
#define NR_MMAP 9
#define NR_GETPID 39
#define NR_EXECVE 59
#define NR_EXIT_GROUP 231
#define NR_FCNTL 72
#define NR_OPENAT 257
#define NR_READLINKAT 267
#define NR_DUP3 292
#define NR_PRCTL 157
#define NR_MEMFD_CREATE 319
#define NR_STATX 332

#define O_NOFOLLOW 0400000

/* The kernel gives argc, argv, 0, environment, 0 on the stack, and no return address. */
#define BEGIN(function)                                                                            \
    __asm__(".globl _start\n"                                                                      \
            ".type _start, @function\n"                                                            \
            "_start:\n"                                                                            \
            "    xorl %ebp, %ebp\n"                                                                \
            "    movq %rsp, %rdi\n"                                                                \
            "    andq $-16, %rsp\n"                                                                \
            "    call " #function "\n"                                                             \
            "    hlt\n")

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
