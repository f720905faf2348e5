/* wordfreq [N]: the N most frequent words of standard input, with their counts. Words are letters, in lower case. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096, LONGEST = 63 };

struct word {
    struct word *next;
    unsigned long count;
    char text[LONGEST + 1];
};

static struct word *buckets[BUCKETS];
static size_t distinct;

static void count(const char *text)
{
    unsigned hash = 5381;
    for (const char *c = text; *c; c++)
        hash = hash * 33 + (unsigned char)*c;

    struct word **slot = &buckets[hash % BUCKETS];
    for (; *slot; slot = &(*slot)->next)
        if (strcmp((*slot)->text, text) == 0) {
            (*slot)->count++;
            return;
        }
    *slot = calloc(1, sizeof **slot);
    if (!*slot) {
        perror("wordfreq");
        exit(1);
    }
    strcpy((*slot)->text, text);
    (*slot)->count = 1;
    distinct++;
}

/* More frequent first, then by the alphabet. */
static int order(const void *a, const void *b)
{
    const struct word *x = *(struct word *const *)a, *y = *(struct word *const *)b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->text, y->text);
}

int main(int argc, char **argv)
{
    size_t wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 10;
    char text[LONGEST + 1];
    size_t length = 0;

    for (int c; (c = getchar()) != EOF || length;) {
        if (isalpha(c)) {
            if (length < LONGEST)
                text[length++] = (char)tolower(c);
        } else if (length) {
            text[length] = '\0';
            count(text);
            length = 0;
        }
    }

    struct word **all = calloc(distinct + 1, sizeof *all);
    if (!all) {
        perror("wordfreq");
        return 1;
    }
    size_t n = 0;
    for (size_t b = 0; b < BUCKETS; b++)
        for (struct word *w = buckets[b]; w; w = w->next)
            all[n++] = w;
    qsort(all, n, sizeof *all, order);
    for (size_t i = 0; i < n && i < wanted; i++)
        printf("%6lu %s\n", all[i]->count, all[i]->text);
    return 0;
}
