/* What the three small programs share: no library, no allocation but one mapping, no lookup but
 * /proc/self/exe, and, of a start that has failed, the file for its reason. Each function says what it refuses;
 * every refusal ends the process with a line on descriptor 2. */

#if defined(__x86_64__)
#include "system-x86_64.h"
#elif defined(__aarch64__)
#include "system-aarch64.h"
#else
#error "x86-64 and AArch64 only"
#endif

#define NULL ((void *)0)
#define PATH_SIZE 4096 /* PATH_MAX of the kernel, the final NUL included */
#define ENTRIES(array) (sizeof(array) / sizeof(*(array)))

enum {
    REFUSED = 78,   /* as crannog.errors.EXIT_REFUSED */
    NOT_FOUND = 127 /* as env(1) and every shell */
};

typedef unsigned long size;

/* The arguments as the kernel left them on the stack. */
struct start {
    long argc;
    char **argv;
    char **environment;
};

size length(const char *text);
int same(const char *one, const char *other);

/* `text` where it begins with `start`, moved behind it; NULL where it does not. */
const char *after(const char *text, const char *start);

/* One line on descriptor 2, `crannog: error: …`, then the end with `status`. Of a container's first
 * process the line is also appended to its termination message, where Kubernetes has put that file
 * (docs/environment.md, "Exit status"). */
void fail(int status, const char *what, const char *path, long error) __attribute__((noreturn));

/* What the kernel left there; its environment is where `fail` finds the name of that file. */
struct start read_start(long *stack);

/* Writes first, second and third one after another; a result longer than a path is refused. */
void join(char result[PATH_SIZE], const char *first, const char *second, const char *third);

/* The canonical path of the running file, from /proc/self/exe; refused where it is not absolute or
 * has no name any more. */
void own_path(char result[PATH_SIZE]);

/* Cuts the last component off, with its slash. What is left of /name is the empty string. */
void cut(char *path);

const char *last_component(const char *path);

/* Room for `count` pointers, zeroed. */
char **pointers(size count);

/* Descriptors 0, 1 and 2 are open afterwards: a closed one becomes an empty sealed file, which reads
 * as its end and cannot be written. /dev is not looked at. */
void fill_standard_descriptors(void);

/* A sealed file in memory with the environment's strings, each with its final NUL. Its descriptor
 * stays open over execve. */
int keep_environment(char *const *environment);

/* `name` and the number as a variable, into `result`. */
void number_variable(char *result, const char *name, int number);

/* Replaces this process; returns only to fail. */
void replace(const char *path, char *const *argv, char *const *environment)
    __attribute__((noreturn));

/* Starts Python from a launcher directory with a clean environment and nothing from outside.
 *   directory   the launcher directory
 *   libraries   where its loader looks for libraries, separated by colons
 *   script      the Python file that is run
 *   arguments   the script's arguments, ending with NULL
 *   first_library  loaded before all others, or NULL
 *   variable    one more for Python's environment, or NULL */
void start_python(const char *directory, const char *libraries, const char *script,
                  char *const *arguments, const char *first_library, char *variable,
                  char *const *environment)
    __attribute__((noreturn));
