/* Makes system calls by number, as a file of lines says, in four threads that all do all of them.
 *
 * A line: LABEL NUMBER ARGUMENT... with the arguments
 *   n:NUMBER        as it is          s:TEXT   a string        e:       an empty string
 *   b:SIZE          a zeroed buffer   x:HEX    these bytes     0:       a null pointer
 *   f:PATH          a descriptor, opened for reading           p:PATH   likewise with O_PATH
 * Prints, from the first thread, "LABEL RESULT": an errno's name, or the number, or for LABELs that
 * begin with "open", what can be read from the descriptor. For those that begin with "text", the
 * first buffer as text; "hex", as hexadecimal digits. A thread that sees something else than the
 * first says so.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define LINES 512
#define ROOM 1024

static char *lines[LINES];
static int count;
static char results[THREADS][LINES][ROOM];

static long argument(const char *word, void **kept, size_t *size)
{
    const char *text = word + 2;
    *kept = NULL;
    *size = 0;
    switch (word[0]) {
    case 'n': return strtol(text, NULL, 0);
    case 's': *kept = strdup(text); break;
    case 'e': *kept = calloc(1, 1); break;
    case 'b': *size = strtoul(text, NULL, 0); *kept = calloc(1, *size + 1); break;
    case 'x': {
        size_t n = strlen(text) / 2;
        unsigned char *bytes = calloc(1, n + 1);
        for (size_t i = 0; i < n; i++)
            sscanf(text + 2 * i, "%2hhx", &bytes[i]);
        *kept = bytes;
        break;
    }
    case 'f': return open(text, O_RDONLY);
    case 'p': return open(text, O_PATH);
    default: return 0;
    }
    return (long)*kept;
}

static void one(const char *line, char *result)
{
    char copy[8192], *rest = copy, *words[8] = {0};
    long values[6] = {0};
    void *kept[6] = {0};
    size_t sizes[6] = {0};
    int n = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word; n < 8 && (word = strsep(&rest, " ")); n++)
        words[n] = word;
    for (int i = 2; i < n; i++)
        values[i - 2] = argument(words[i], &kept[i - 2], &sizes[i - 2]);
    long r = syscall(atol(words[1]), values[0], values[1], values[2], values[3], values[4], values[5]);
    int e = errno;
    int at = snprintf(result, ROOM, "%s ", words[0]);
    if (r < 0)
        snprintf(result + at, ROOM - at, "%s", strerrorname_np(e));
    else if (!strncmp(words[0], "open", 4)) {
        char content[256];
        ssize_t got = read(r, content, sizeof content - 1);
        if (got < 0)
            snprintf(result + at, ROOM - at, "fd:%s", strerrorname_np(errno));
        else {
            content[got] = 0;
            snprintf(result + at, ROOM - at, "fd:%s", content);
        }
        close(r);
    } else if (!strncmp(words[0], "text", 4) || !strncmp(words[0], "hex", 3)) {
        for (int i = 0; i < 6; i++)
            if (sizes[i]) {
                unsigned char *bytes = kept[i];
                if (words[0][0] == 't')
                    snprintf(result + at, ROOM - at, "%s", (char *)bytes);
                else
                    for (size_t k = 0; k < sizes[i] && k < 300; k++)
                        at += snprintf(result + at, ROOM - at, "%02x", bytes[k]);
                break;
            }
    } else
        snprintf(result + at, ROOM - at, "%ld", r);
    for (int i = 2; i < n; i++) {
        if ((words[i][0] == 'f' || words[i][0] == 'p') && values[i - 2] >= 0)
            close(values[i - 2]);
        free(kept[i - 2]);
    }
}

static void *all(void *which)
{
    long thread = (long)which;
    for (int i = 0; i < count; i++)
        one(lines[i], results[thread][i]);
    return NULL;
}

int main(int argc, char **argv)
{
    static char buffer[1 << 20];
    pthread_t threads[THREADS];
    int bad = 0, parallel = argc > 2 ? atoi(argv[2]) : THREADS;
    FILE *file = fopen(argv[1], "r");
    if (!file) {
        perror(argv[1]);
        return 2;
    }
    size_t size = fread(buffer, 1, sizeof buffer - 1, file);
    buffer[size] = 0;
    fclose(file);
    char *rest = buffer;
    for (char *line; (line = strsep(&rest, "\n")) && count < LINES;)
        if (*line)
            lines[count++] = line;
    for (long i = 0; i < parallel; i++)
        pthread_create(&threads[i], NULL, all, (void *)i);
    for (long i = 0; i < parallel; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < count; i++) {
        puts(results[0][i]);
        for (int thread = 1; thread < parallel; thread++)
            if (strcmp(results[0][i], results[thread][i])) {
                printf("DIFFERS %s\n", results[thread][i]);
                bad = 1;
            }
    }
    return bad;
}
