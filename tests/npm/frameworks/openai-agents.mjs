// node openai-agents.mjs HOST:PORT: an agent of @openai/agents, which runs until an answer has a
// message.
import {
  Agent,
  imageGenerationTool,
  OpenAIResponsesModel,
  run,
  setTracingDisabled,
  tool,
} from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { report } from "../report.mjs";

setTracingDisabled(true);
const client = new OpenAI({
  baseURL: `http://${process.argv[2]}/v1`,
  apiKey: "none",
  maxRetries: 0,
});
const weather = tool({
  name: "weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  execute: ({ city }) => `${city}: sunny`,
});
const agent = new Agent({
  name: "painter",
  instructions: "You draw.",
  model: new OpenAIResponsesModel(client, "m"),
  tools: [weather, imageGenerationTool({ size: "64x64" })],
});

function found(result) {
  const calls = result.newItems.filter(({ rawItem }) => rawItem.name === "image_generation_call");
  return { images: calls.map(({ rawItem }) => rawItem.output), text: result.finalOutput };
}

let history;
await report({
  plain: async () => found(await run(agent, "a fox", { maxTurns: 2 })),
  streamed: async () => {
    const result = await run(agent, "a fox", { stream: true, maxTurns: 2 });
    for await (const _ of result);
    await result.completed;
    history = result.history;
    return found(result);
  },
  again: async () => {
    const message = { role: "user", content: "make it bluer" };
    return found(await run(agent, [...history, message], { maxTurns: 2 }));
  },
});
