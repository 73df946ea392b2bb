// The same three workflows on Restate, in-process (w1, w2, w3) and dispatched (w1c, w2c, w3c).
// Started by restate_side.py with the port in PORT; node finds the SDK beside the copy of this file.

// The SDK wants Node 22; this is the one thing that Node 20 lacks. It must be there before the SDK is loaded.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((yes, no) => { resolve = yes; reject = no; });
  return { promise, resolve, reject };
};

const { endpoint, service, RestatePromise } = await import("@restatedev/restate-sdk");

const Double = service({ name: "Double", handlers: { run: async (_ctx, x) => x * 2 } });
const sum = (values) => values.reduce((total, value) => total + value, 0);

const Bench = service({
  name: "Bench",
  handlers: {
    w1: async (ctx, x) => ctx.run("t", () => x * 2),
    w2: async (ctx, x) => {
      for (let turn = 0; turn < 10; turn++) {
        const value = x;
        x = await ctx.run(`t${turn}`, () => value * 2);
      }
      return x;
    },
    w3: async (ctx) => sum(await RestatePromise.all(
      Array.from({ length: 100 }, (_, item) => ctx.run(`t${item}`, () => item * 2)))),
    w1c: async (ctx, x) => ctx.serviceClient(Double).run(x),
    w2c: async (ctx, x) => {
      for (let turn = 0; turn < 10; turn++) x = await ctx.serviceClient(Double).run(x);
      return x;
    },
    w3c: async (ctx) => sum(await RestatePromise.all(
      Array.from({ length: 100 }, (_, item) => ctx.serviceClient(Double).run(item)))),
  },
});

endpoint().bind(Double).bind(Bench).listen(Number(process.env.PORT));
