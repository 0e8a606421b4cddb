// What the programs of this directory have in common.

/** Runs steps one by one; prints what each gave, or what it threw, as one JSON object. */
export async function report(steps) {
  const found = {};
  for (const [name, step] of Object.entries(steps)) {
    try {
      found[name] = await step();
    } catch (error) {
      found[name] = { thrown: String(error) };
    }
  }
  console.log(JSON.stringify(found));
}

/** What a call throws, as the SDK shows it to an application. */
export async function thrown(call) {
  try {
    await call();
  } catch (error) {
    return {
      kind: error.constructor.name,
      status: error.status ?? error.statusCode,
      message: error.message,
      retry_after: error.headers.get("retry-after"),
    };
  }
  throw new Error("nothing was thrown");
}

/** For each status, plain and as a stream, what `call(embedded, stream)` throws. */
export async function errors(call) {
  const found = [];
  for (const http_status of [400, 429, 500]) {
    const embedded = { http_status, retry_after_seconds: 7 };
    for (const stream of [false, true]) {
      found.push(await thrown(() => call(embedded, stream)));
    }
  }
  return found;
}
