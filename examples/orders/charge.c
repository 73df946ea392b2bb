/* The same task as charge.wat, in C. Needs nothing but the compiler:
 *
 *   clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry -Wl,--export=alloc -Wl,--export=run -o charge.wasm charge.c
 */

#define PAGE 65536ul

static const char BEFORE[] = "{\"request\":";
static const char BETWEEN[] = ",\"authorization\":\"";
static const char DIGITS[] = "0123456789abcdef";

extern unsigned char __heap_base;
static unsigned long next_free;

/* Room for `length` bytes; the instance lives for one task, so nothing is ever given back. */
unsigned char *alloc(unsigned long length) {
  if (next_free == 0) next_free = (unsigned long)&__heap_base;
  unsigned long start = next_free, end = start + length;
  unsigned long pages = (end + PAGE - 1) / PAGE, have = __builtin_wasm_memory_size(0);
  if (pages > have && __builtin_wasm_memory_grow(0, pages - have) == (unsigned long)-1) __builtin_trap();
  next_free = end;
  return (unsigned char *)start;
}

static unsigned char *append(unsigned char *at, const void *from, unsigned long length) {
  const unsigned char *bytes = from;
  for (unsigned long place = 0; place < length; place++) *at++ = bytes[place];
  return at;
}

/* The result's pointer in the upper half, its length in the lower one. */
unsigned long long run(const unsigned char *input, unsigned long length) {
  unsigned int hash = 0x811c9dc5u;
  for (unsigned long place = 0; place < length; place++) hash = (hash ^ input[place]) * 0x01000193u;

  unsigned char *out = alloc(length + 64), *at = out;
  at = append(at, BEFORE, sizeof BEFORE - 1);
  at = append(at, input, length);
  at = append(at, BETWEEN, sizeof BETWEEN - 1);
  for (int shift = 28; shift >= 0; shift -= 4) *at++ = DIGITS[(hash >> shift) & 15];
  at = append(at, "\"}", 2);
  return (unsigned long long)(unsigned long)out << 32 | (unsigned long)(at - out);
}
