// node openrouter.mjs HOST:PORT PACKAGE: what a version of @openrouter/sdk makes of a door, as JSON.
import { errors, report } from "./report.mjs";

const tools = [{ type: "image_generation", size: "256x256" }];
const bare = (client, request) => client.beta.responses.send(request);

/** How each version is called; before 0.10 none could name the image tool. */
const VERSIONS = {
  "openrouter-1.3": {
    tools,
    send: (client, request) => client.responses.send({ responsesRequest: request }),
  },
  "openrouter-0.10": {
    tools,
    send: (client, request) => client.beta.responses.send({ openResponsesRequest: request }),
  },
  "openrouter-0.3": { send: bare },
  "openrouter-0.0.1": { send: bare },
  // Its send() leaves the body out, and what the door cannot read is a 400. The fetcher fills it in.
  "openrouter-0.0.1-beta": { send: bare, eventOf: (message) => message.data },
};

const [, , address, name] = process.argv;
const version = VERSIONS[name];
const eventOf = version.eventOf ?? ((event) => event);
const { HTTPClient, OpenRouter } = await import(name);

let asked; // The request as it was given to the SDK, and its key "embedded", which no schema has.
async function fetcher(request) {
  const sent = await request.text();
  const body = JSON.stringify({ ...(sent ? JSON.parse(sent) : asked), embedded: asked.embedded });
  return fetch(request.url, { method: request.method, headers: request.headers, body });
}

const client = new OpenRouter({
  apiKey: "none",
  serverURL: `http://${address}/api/v1`,
  httpClient: new HTTPClient({ fetcher }),
  retryConfig: { strategy: "none" },
});
const message = { type: "message", role: "user", content: "make it blue" };

function send({ embedded, ...changed } = {}) {
  const request = { model: "m", input: "a fox", tools: version.tools, ...changed };
  asked = { ...request, embedded };
  return version.send(client, request);
}

async function events(changed) {
  const found = [];
  for await (const event of await send({ ...changed, stream: true })) found.push(eventOf(event));
  return found;
}

await report({
  plain: async () => (await send()).output[0],
  stream: async () => {
    const found = await events();
    return { types: found.map(({ type }) => type), item: found.at(-1).response.output[0] };
  },
  replay: async () => {
    const [item] = (await send()).output;
    const edited = await send({ input: [item, message] });
    const alone = await send({ input: [message] });
    return { edited: edited.output[0], alone: alone.output[0] };
  },
  errors: () => errors((embedded, stream) => send({ embedded, stream })),
  midway: async () => {
    const found = await events({ embedded: { http_status: 500, midway: true } });
    const last = found.pop();
    if (last.type !== "error") throw new Error(`the last event is ${last.type}`);
    return { types: found.map(({ type }) => type), code: last.code, message: last.message };
  },
});
