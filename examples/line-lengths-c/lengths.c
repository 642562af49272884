/* Reads file names, a line each, until the end of stdin; writes `length TAB count` lines. */
#include <stdio.h>
#include <string.h>

enum { LONGEST = 1000 };

static unsigned long counts[LONGEST + 1];

static int read_file(const char *name)
{
    FILE *file = fopen(name, "r");
    int letter, length = 0;
    if (file == NULL) {
        perror(name);
        return 1;
    }
    while ((letter = getc(file)) != EOF) {
        if (letter == '\n') {
            counts[length]++;
            length = 0;
        } else if (length < LONGEST) {
            length++;
        }
    }
    if (length > 0)
        counts[length]++;
    return ferror(file) | fclose(file);
}

int main(void)
{
    char name[8192];
    int length;
    while (fgets(name, sizeof name, stdin) != NULL) {
        name[strcspn(name, "\n")] = '\0';
        if (read_file(name) != 0)
            return 1;
    }
    for (length = 0; length <= LONGEST; length++)
        if (counts[length] > 0)
            printf("%03d\t%lu\n", length, counts[length]);
    return 0;
}
