// node openai.mjs HOST:PORT: what the openai package makes of a door, as JSON.
import OpenAI from "openai";
import { errors, report } from "./report.mjs";

const client = new OpenAI({
  baseURL: `http://${process.argv[2]}/v1`,
  apiKey: "none",
  maxRetries: 0,
});
const request = {
  model: "m",
  input: "a fox",
  tools: [{ type: "image_generation", size: "256x256" }],
};
const message = { role: "user", content: "make it blue" };
const create = (changed) => client.responses.create({ ...request, ...changed });

await report({
  plain: async () => (await create()).output[0],
  stream: async () => {
    const stream = client.responses.stream(request);
    const types = [];
    for await (const event of stream) types.push(event.type);
    return { types, item: (await stream.finalResponse()).output[0] };
  },
  replay: async () => {
    const [item] = (await create()).output;
    const edited = await create({ input: [item, message] });
    const alone = await create({ input: [message] });
    return { edited: edited.output[0], alone: alone.output[0] };
  },
  errors: () => errors((embedded, stream) => create({ embedded, stream })),
  midway: async () => {
    const embedded = { http_status: 500, midway: true };
    const types = [];
    try {
      for await (const event of await create({ embedded, stream: true })) types.push(event.type);
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      return { types, code: String(error.code), message: error.message };
    }
  },
});
