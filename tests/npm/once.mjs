// node once.mjs HOST:PORT SDK COUNT: asks a door COUNT times, plain and as a stream at once, with an SDK
// at its defaults; prints as JSON the statuses with which the two calls fail, each time.
const [, , address, sdk, count] = process.argv;
const apiKey = "none";
const baseURL = `http://${address}/v1`;
const request = { model: "m", input: "a fox", tools: [{ type: "image_generation" }] };

const SDKS = {
  openai: async () => {
    const { default: OpenAI } = await import("openai");
    const client = new OpenAI({ baseURL, apiKey });
    return (stream) => client.responses.create({ ...request, stream });
  },
  "openrouter-1.3": async () => {
    const { OpenRouter } = await import("openrouter-1.3");
    const client = new OpenRouter({ apiKey, serverURL: `http://${address}/api/v1` });
    return (stream) => client.responses.send({ responsesRequest: { ...request, stream } });
  },
  ai: async () => {
    const { generateText, streamText } = await import("ai");
    const { createOpenAI } = await import("@ai-sdk/openai");
    const { responses, tools } = createOpenAI({ baseURL, apiKey });
    const image = tools.imageGeneration({});
    const call = { model: responses("m"), prompt: "a fox", tools: { image_generation: image } };
    return async (stream) => {
      if (!stream) return generateText(call);
      const { fullStream } = streamText({ ...call, onError: () => {} });
      for await (const part of fullStream) if (part.type === "error") throw part.error;
    };
  },
};

/** The status of what a call throws; the AI SDK wraps it if it has sent the request repeatedly. */
async function failure(call) {
  try {
    await call;
  } catch (error) {
    const last = error.lastError ?? error;
    return last.status ?? last.statusCode ?? String(last);
  }
  return "none";
}

const ask = await SDKS[sdk]();
const found = [];
for (let number = 0; number < Number(count); number++) {
  found.push(await Promise.all([failure(ask(false)), failure(ask(true))]));
}
console.log(JSON.stringify(found));
