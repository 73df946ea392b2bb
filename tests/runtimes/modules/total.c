/* A WASI command in plain C: reads a JSON list of numbers, answers with their sum.
 *
 *   clang --target=wasm32-wasi --sysroot=/usr -Os -Wl,--strip-all -o total.wasm total.c
 */
#include <stdio.h>
#include <stdlib.h>

static char text[1 << 16];

int main(void) {
    size_t length = fread(text, 1, sizeof text - 1, stdin);
    char *at = text;
    double sum = 0;
    text[length] = 0;
    if (*at++ != '[') {
        fprintf(stderr, "expected a list of numbers\n");
        return 1;
    }
    while (*at && *at != ']') {
        char *end;
        sum += strtod(at, &end);
        if (end == at) {
            fprintf(stderr, "not a number at %ld\n", (long)(at - text));
            return 2;
        }
        at = *end == ',' ? end + 1 : end;
    }
    fprintf(stderr, "added %ld bytes of input\n", (long)length);
    printf("%.10g\n", sum);
    return 0;
}
