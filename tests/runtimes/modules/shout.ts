// The pointer interface in AssemblyScript: the text of the input, in capital letters.
//
//   asc shout.ts -o shout.wasm -Oz --runtime stub --use abort=
//
export function alloc(length: i32): usize {
  return heap.alloc(length);
}

export function run(pointer: usize, length: i32): i64 {
  for (let i = 0; i < length; i++) {
    const letter = load<u8>(pointer + i);
    if (letter >= 97 && letter <= 122) store<u8>(pointer + i, letter - 32);
  }
  return (<i64>pointer << 32) | length;
}
