// node ai-sdk.mjs HOST:PORT: the AI SDK with @ai-sdk/openai, whose second turn names the items of
// the first by their ids.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText, tool } from "ai";
import { z } from "zod";
import { report } from "../report.mjs";

const openai = createOpenAI({ baseURL: `http://${process.argv[2]}/v1`, apiKey: "none" });
const options = {
  model: openai.responses("gpt-5"),
  maxRetries: 0,
  tools: {
    weather: tool({
      description: "The weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: ({ city }) => `${city}: sunny`,
    }),
    image_generation: openai.tools.imageGeneration({ size: "1024x1024" }),
  },
};

function found(results, text) {
  const images = results.filter(({ toolName }) => toolName === "image_generation");
  return { images: images.map(({ output }) => output.result), text };
}

let messages;
await report({
  plain: async () => {
    const { toolResults, text } = await generateText({ ...options, prompt: "a fox" });
    return found(toolResults, text);
  },
  streamed: async () => {
    const result = streamText({ ...options, prompt: "a fox" });
    await result.consumeStream();
    messages = (await result.response).messages;
    return found(await result.toolResults, await result.text);
  },
  again: async () => {
    const fox = { role: "user", content: "a fox" };
    const bluer = { role: "user", content: "make it bluer" };
    const turn = await generateText({ ...options, messages: [fox, ...messages, bluer] });
    return found(turn.toolResults, turn.text);
  },
});
