// Looks closely at a large order: a toy risk score that takes honest work, a second or two of it for a very large order.
function run(input, ctx) {
  const rounds = input.items.reduce((sum, item) => sum + item.quantity, 0) * 30000;
  let score = 7;
  for (let round = 0; round < rounds; round++) {
    score = (score * 1103515245 + 12345) % 2147483648;
    if (round % 1000000 === 0) ctx.progress(round / rounds, "inspecting");
  }
  return { score: score % 100, rounds };
}
