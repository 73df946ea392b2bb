/* The pointer interface in C without a library: {"name":"…"} or anything else becomes {"echo": <input>}, and it logs.
 *
 *   clang --target=wasm32 -nostdlib -Os -Wl,--no-entry,--strip-all -o greet.wasm greet.c
 */
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("task"), import_name(name)))

IMPORT("log") void task_log(int level, const char *text, int length);
IMPORT("progress") void task_progress(double fraction, const char *text, int length);

static char room[1 << 16];
static const char before[] = "{\"echo\":";

EXPORT("alloc") char *give(int length) {
    int head = sizeof before - 1;
    return length + head + 1 <= (int)sizeof room ? room + head : 0;
}

EXPORT("run") long long run(char *input, int length) {
    int head = sizeof before - 1;
    for (int i = 0; i < head; i++) room[i] = before[i];
    input[length] = '}';
    task_progress(0.5, "half", 4);
    task_log(1, "greeted", 7);
    return (long long)(unsigned long)room << 32 | (unsigned)(head + length + 1);
}
